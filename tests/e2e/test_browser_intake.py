"""Bringing films in other ways than the drop zone, going back to them, and what is read aloud."""

import base64
import re

import pytest

from benchmarks.page import SHIFTS
from tests.conftest import SAMPLES
from tests.e2e.conftest import check_accessibility, keep, settle, upload, wait_for_verdict

# What the browser does when files are dropped on or pasted into the page
SEND = """
([kind, name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const options = { bubbles: true, cancelable: true };
  const event = kind === "paste"
    ? new ClipboardEvent(kind, { ...options, clipboardData: transfer })
    : new DragEvent(kind, { ...options, dataTransfer: transfer });
  document.querySelector("h1").dispatchEvent(event);
}
"""


def send(page, kind: str, sample: str) -> None:
    data = base64.b64encode((SAMPLES / f"{sample}.png").read_bytes()).decode()
    page.evaluate(SEND, [kind, f"{sample}.png", data])


def test_a_film_dropped_anywhere_and_one_pasted(open_page):
    page = open_page()
    settle(page)
    send(page, "dragover", "pneumonia_2")
    send(page, "drop", "pneumonia_2")
    wait_for_verdict(page, "Pneumonia likely")
    page.get_by_role("button", name="Close film").click()
    page.get_by_text("Drop a film, paste one").wait_for()
    send(page, "paste", "normal_2")
    wait_for_verdict(page, "Pneumonia unlikely")


def test_the_camera_of_a_phone(browser, url):
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(url)
    camera = page.get_by_label("Take a photo of a film")
    camera.wait_for(timeout=60_000)
    assert camera.get_attribute("capture") == "environment"
    camera.set_input_files(SAMPLES / "pneumonia_1.png")
    wait_for_verdict(page, "Pneumonia likely")
    context.close()


def test_films_shown_before_are_one_click_away(open_page):
    page = open_page("/?sample=normal_1")
    wait_for_verdict(page, "Pneumonia unlikely")
    upload(page, SAMPLES / "pneumonia_2.png")
    wait_for_verdict(page, "Pneumonia likely")
    settle(page)
    page.get_by_role("button", name="Normal 1: unlikely").click()
    wait_for_verdict(page, "Pneumonia unlikely")
    assert page.url.endswith("sample=normal_1")
    settle(page)
    keep(page, "shown_before")
    page.get_by_role("button", name="pneumonia_2.png: likely").click()
    wait_for_verdict(page, "Pneumonia likely")
    assert "sample" not in page.url
    page.go_back()
    wait_for_verdict(page, "Pneumonia unlikely")


def test_the_verdict_is_read_aloud(open_page):
    page = open_page()
    page.get_by_role("button", name="Pneumonia 1", exact=True).click()
    wait_for_verdict(page, "Pneumonia likely")
    page.get_by_role("status").filter(has_text=re.compile("^Pneumonia likely, probability")).wait_for()
    said = page.evaluate_handle("""() => {
        const said = [], region = document.getElementById("cxr-said");
        new MutationObserver(() => said.push(region.textContent)).observe(region, { childList: true });
        return said;
    }""")
    settle(page)
    page.get_by_role("button", name="Pneumonia 2", exact=True).click()  # the same words, read again
    page.wait_for_function("said => said.length === 2", arg=said)
    empty, again = said.json_value()
    assert empty == ""
    assert again == page.get_by_role("status").filter(has_text="Pneumonia likely").inner_text()
    settle(page)
    page.get_by_role("button", name="Uncertain", exact=True).click()
    page.get_by_role("status").filter(has_text=re.compile(r"probability \S+, uncertain$")).wait_for()
    settle(page)
    page.get_by_role("button", name="Refused", exact=True).click()
    page.get_by_role("status").filter(has_text="Not scored: no lungs were found").wait_for()
    assert page.get_by_role("heading", level=1).inner_text().startswith("CXR Lite")


def test_the_first_visit_is_light(open_page):
    """Of what is loaded before a verdict, the page's own pictures take at most 300 kB."""
    page = open_page("/", width=1440)
    page.get_by_text("A first model finds the lungs").first.wait_for()
    keep(page, "first_visit")
    check_accessibility(page)
    sources = page.locator("img").evaluate_all("images => images.map(image => image.src)")
    inline = {source for source in sources if source.startswith("data:")}
    assert len(inline) >= 8  # the samples and the example
    assert sum(map(len, inline)) < 300_000


@pytest.mark.parametrize("width", [1440, 390])
def test_little_moves_on_a_first_visit(browser, url, width):
    """``python -m benchmarks.page`` measures .04; a busy machine draws in more steps."""
    page = browser.new_page(viewport={"width": width, "height": 1000})
    page.add_init_script(SHIFTS)
    page.goto(url)
    page.get_by_role("img", name="A film, its lungs, and the evidence").wait_for()
    settle(page)
    assert 0 < page.evaluate("window.shift") < 0.2
    page.close()
