"""The film: where it comes from, and how it is shown with its evidence."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import time
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image

from cxr import ModelCard, Prediction, overlay_evidence, read_image
from cxr.imaging import ACCEPTED, EXTENSIONS

SAMPLES = {
    "Normal 1": "normal_1.png",
    "Normal 2": "normal_2.png",
    "Pneumonia 1": "pneumonia_1.png",
    "Pneumonia 2": "pneumonia_2.png",
}
SAMPLES_DIR = Path(__file__).resolve().parent / "samples"
SAMPLE_PX = 82  # four stand in a row on a phone
OPACITY_PERCENT = 60
SHOWN_PX = 1024  # the longer side on the page; larger films would only be slow to send


@dataclasses.dataclass(frozen=True)
class Film:
    """A decoded film: pixels uint8 (H, W), the sha256 of its file, and how long decoding took."""

    pixels: np.ndarray
    digest: str
    decode_ms: float


def choose() -> bytes | None:
    """The drop zone and the samples. Returns the bytes of the chosen file, None before a choice."""
    state = st.session_state
    state.setdefault("uploads", 0)
    drop_zone, samples = st.columns([3, 4], gap="medium")
    with drop_zone:
        upload = st.file_uploader(
            "Drop a frontal chest X-ray here",
            type=[extension.removeprefix(".") for extension in EXTENSIONS],
            key=f"upload_{state.uploads}",
            on_change=_forget_sample,
            help=f"Accepted is {ACCEPTED}. The file stays in this session's memory and is not stored.",
        )
    with samples, st.container(horizontal=True, gap="xsmall"):
        for name, file in SAMPLES.items():
            with st.container(width=SAMPLE_PX, gap="xsmall"):
                st.image(SAMPLES_DIR / file, width=SAMPLE_PX)
                st.button(name, key=file, on_click=_take_sample, args=(file,), type="tertiary")
    with samples:
        st.caption("Samples: each a composite of nine children's films, no patient's own picture.")
    if upload is not None:
        return upload.getvalue()
    if state.get("sample"):
        return (SAMPLES_DIR / state.sample).read_bytes()
    return None


def explain() -> None:
    """What a first visitor reads in place of a result."""
    st.info(
        "Drop a film or click a sample. The model reads the whole frame, gives a probability and "
        "shows which regions it came from. It learned from children of one hospital: on films from "
        "elsewhere its score may be worth little."
    )


def decode(source: bytes) -> Film:
    """Decode a file, once for each file that the session shows.

    Raises:
        InvalidImageError: if the file cannot be scored.
    """
    digest = hashlib.sha256(source).hexdigest()
    film = st.session_state.get("film")
    if film is None or film.digest != digest:
        st.session_state.film = None
        start = time.perf_counter()
        pixels = read_image(io.BytesIO(source))
        film = Film(pixels, digest, (time.perf_counter() - start) * 1e3)
        st.session_state.film = film
    return film


def show(pixels: np.ndarray, prediction: Prediction, card: ModelCard) -> float:
    """Draw the film under its evidence. Returns the time that the overlay took, ms."""
    opacity = st.session_state.get("opacity", OPACITY_PERCENT) / 100
    start = time.perf_counter()
    shown = Image.fromarray(pixels)
    shown.thumbnail((SHOWN_PX, SHOWN_PX))
    overlay = overlay_evidence(np.asarray(shown), prediction.evidence, card.evidence_scale, opacity)
    overlay_ms = (time.perf_counter() - start) * 1e3
    st.image(overlay, width="stretch")
    st.slider("Evidence opacity (%)", 0, 100, OPACITY_PERCENT, 5, key="opacity")
    rows, columns = prediction.evidence.shape
    st.caption(
        f"Color shows where evidence for pneumonia came from, on a scale that is the same for every "
        f"film. The map has {rows} x {columns} cells: it points to a region, not to a lesion, and may "
        "lie outside the lungs, where the framing of a film gave the answer away."
    )
    return overlay_ms


def _take_sample(file: str) -> None:
    st.session_state.sample = file
    st.session_state.uploads += 1  # a new key empties the drop zone


def _forget_sample() -> None:
    st.session_state.sample = None
