"""More ways to bring a film than the drop zone, and a word to screen readers about what became of it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

CAMERA = """
<span>Or paste an image.</span>
<label>Take a photo of a film
  <input type="file" accept="image/*" capture="environment">
</label>
"""
CAMERA_CSS = """
label {
  display: none; position: relative; padding: 0.4rem 0.75rem; font: 0.875rem var(--st-font);
  color: var(--st-text-color); border: 1px solid var(--st-border-color, currentColor);
  border-radius: var(--st-base-radius, 0.25rem); cursor: pointer;
}
label:focus-within { outline: 2px solid var(--st-primary-color); }
input { position: absolute; inset: 0; opacity: 0; width: 100%; }
span { font: 0.875rem var(--st-font); color: var(--st-text-color); opacity: 0.8; }
@media (pointer: coarse) {
  label { display: inline-block; }
  span { display: none; }
}
"""
HEIGHT_PX = 40  # from the start, so that nothing moves when it is there

# The region stays on the page while Streamlit draws it again, so that a change is read aloud.
ANNOUNCE = """
export default function ({ data }) {
  let region = document.getElementById("cxr-said");
  if (!region) {
    region = document.createElement("div");
    region.id = "cxr-said";
    region.setAttribute("role", "status");
    region.style.cssText = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)";
    document.body.append(region);
  }
  const { sentence, film } = data;
  if (region.textContent === sentence && region.dataset.film === film) return;
  if (region.textContent === sentence) { // of another film: only a change is read
    region.textContent = "";
    setTimeout(() => { if (region.dataset.film === film) region.textContent = sentence; }, 100);
  } else {
    region.textContent = sentence;
  }
  region.dataset.film = film;
}
"""

_intake = st.components.v2.component(
    "intake", html=CAMERA, css=CAMERA_CSS, js=Path(__file__).with_name("intake.js").read_text()
)
_announcer = st.components.v2.component("announcer", js=ANNOUNCE)


def listen() -> None:
    """Take films that are dropped anywhere on the page, pasted, or, on a phone, taken with its camera."""
    _intake(key="intake", height=HEIGHT_PX)


def announce(sentence: str, film: str = "") -> None:
    """Have screen readers say a sentence, without moving their focus. It is not seen.

    Args:
        sentence: what is said.
        film: what it is said of. The same sentence is said again for another film.
    """
    with st.container(key="announcer"):  # which the page's style takes no room for
        _announcer(data={"sentence": sentence, "film": film})
