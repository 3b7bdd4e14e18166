"""The page in Chromium, with one film at a time."""

import re

import pytest
from PIL import Image

from tests.conftest import SAMPLES
from tests.e2e.conftest import OUTPUT, check_accessibility, keep, settle, upload, wait_for_verdict

# Thumbnails are in the shadow of their component
FOCUSED = """
(() => {
  let element = document.activeElement;
  while (element.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
  return element.innerText.trim();
})()
"""


@pytest.mark.parametrize(("name", "width", "scheme"), [("wide", 1280, "light"), ("phone", 390, "dark")])
def test_upload_gets_a_verdict(open_page, name, width, scheme):
    page = open_page(width=width, scheme=scheme)
    page.get_by_text("Drop a film, paste one").wait_for()
    keep(page, f"{name}_first_visit")
    check_accessibility(page)
    upload(page, SAMPLES / "pneumonia_2.png")
    verdict = wait_for_verdict(page, r"Pneumonia likely\s+(over )?0\.\d\d$")
    film = page.get_by_role("img", name=re.compile("^Chest film of"))
    film.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert verdict.bounding_box()["y"] < film.bounding_box()["y"]
    keep(page, f"{name}_verdict")
    check_accessibility(page)


def test_a_bad_file_is_refused_and_a_sample_recovers(open_page, files):
    page = open_page()
    upload(page, files["damaged"])
    page.get_by_text("This file cannot be scored.").wait_for()
    keep(page, "bad_file")
    check_accessibility(page)
    page.get_by_role("button", name="Normal 1", exact=True).click()
    wait_for_verdict(page, "Pneumonia unlikely")
    assert page.get_by_text("This file cannot be scored.").count() == 0


def test_dicom(open_page, files):
    page = open_page()
    upload(page, files["film"])
    wait_for_verdict(page, "Pneumonia likely")
    assert "Doe" not in page.content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_refusal_and_override(open_page, files, scheme):
    page = open_page(scheme=scheme)
    upload(page, files["photograph"])
    page.get_by_role("heading", name=re.compile("^Not scored")).wait_for()
    assert page.get_by_role("heading", name=re.compile("^Pneumonia")).count() == 0
    keep(page, f"refused_{scheme}")
    check_accessibility(page)
    page.get_by_role("button", name="Score it anyway").click()
    wait_for_verdict(page, "Pneumonia (un)?likely.*Refused film, scored anyway")
    keep(page, f"scored_anyway_{scheme}")
    check_accessibility(page)


def test_a_negative_is_inverted_on_request(open_page, files):
    page = open_page()
    upload(page, files["negative"])
    page.get_by_role("heading", name="Not scored: this film looks inverted").wait_for()
    keep(page, "inverted")
    check_accessibility(page)
    page.get_by_role("button", name="Invert the film").click()
    page.get_by_text("You inverted the gray levels").wait_for()
    wait_for_verdict(page, "Pneumonia likely")


def test_comparison_and_threshold_explorer(open_page):
    page = open_page("/?sample=pneumonia_1", scheme="dark")
    wait_for_verdict(page, "Pneumonia likely")
    page.get_by_text("Compare float32 and int8 on this film").click()
    page.get_by_role("heading", name="Evidence, int8 and float32").wait_for()
    page.get_by_role("img", name="Evidence of float32").wait_for()
    page.get_by_text(re.compile("int8 takes .* of float32's time")).wait_for()
    page.get_by_text("Try a different threshold").click()
    page.get_by_text(re.compile("^Official test:")).wait_for()
    curves = page.get_by_role("img", name="ROC curves with the chosen point")
    assert curves.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert curves.bounding_box()["height"] > 80
    keep(page, "comparison")
    check_accessibility(page)
    bar = page.get_by_role("img", name=re.compile("on a bar from 0 to 1, threshold 0.50"))
    bar.wait_for()
    page.get_by_role("slider", name="Threshold").press("ArrowRight")
    bar.wait_for(state="detached")
    page.get_by_text("Try a different threshold").click()  # closed, it no longer says anything
    bar.wait_for()


def test_a_verdict_loads_no_chart_library(open_page):
    page = open_page("/?sample=pneumonia_1")
    wait_for_verdict(page, "Pneumonia likely")
    page.get_by_role("img", name=re.compile("^Probability .* on a bar")).wait_for()
    page.get_by_role("img", name="Time of each stage, as listed below").wait_for()
    settle(page)
    loaded = page.evaluate("performance.getEntriesByType('resource').map(r => r.name)")
    assert loaded
    assert not [name for name in loaded if re.search("vega|plotly|deck", name, re.IGNORECASE)]


def test_the_lungs_are_erased_on_request(open_page):
    page = open_page("/?sample=pneumonia_2")
    verdict = wait_for_verdict(page, "Pneumonia likely").inner_text()
    page.get_by_role("radio", name="Erase the lungs").click()
    said = page.get_by_text(re.compile(r"becomes 0\.\d+:"))
    said.wait_for()
    assert 0.3 < float(re.search(r"becomes (0\.\d+)", said.inner_text())[1]) < 0.7
    page.get_by_role("img", name="The film after: Erase the lungs").wait_for()
    keep(page, "lungs_erased")
    check_accessibility(page)
    assert wait_for_verdict(page, "Pneumonia likely").inner_text() == verdict


def test_report(open_page, tmp_path):
    page = open_page("/?sample=normal_2&model=float32")
    wait_for_verdict(page, "Pneumonia unlikely")
    page.get_by_role("button", name="Save", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download a report").click()
    path = tmp_path / "report.html"
    download.value.save_as(path)
    page.goto(path.as_uri())
    page.get_by_role("heading", name=re.compile("^Pneumonia unlikely, probability")).wait_for()
    page.get_by_text("pneumonia_float32, made").wait_for()
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    OUTPUT.mkdir(exist_ok=True)
    page.screenshot(path=OUTPUT / "report.png", full_page=True)
    check_accessibility(page)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.get_by_role("cell").first.bounding_box()["width"] > 300  # below its name
    page.screenshot(path=OUTPUT / "report_phone.png", full_page=True)


def test_a_sample_by_keyboard(open_page):
    page = open_page()
    page.get_by_text("A first model finds the lungs").first.wait_for()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate(FOCUSED) == "Normal 2":
            break
    page.keyboard.press("Enter")
    wait_for_verdict(page, "Pneumonia unlikely")
    assert "sample=normal_2" in page.url
    settle(page)
    assert page.evaluate(FOCUSED) == "Normal 2"


def test_sessions_do_not_cross(open_page, tmp_path):
    pages = {}
    for i in range(6):
        sample = SAMPLES / f"{('normal', 'pneumonia')[i % 2]}_1.png"
        path = tmp_path / f"{i}.png"
        Image.open(sample).resize((500 + i, 600 - i)).save(path)
        pages[path] = open_page()
    for path, page in pages.items():
        upload(page, path)
    for i, page in enumerate(pages.values()):
        page.get_by_role("img", name=f"Chest film of {500 + i} by {600 - i} pixels").wait_for()
        wait_for_verdict(page, f"Pneumonia {('unlikely', 'likely')[i % 2]}")


def test_back_and_forward_show_what_the_address_says(open_page):
    page = open_page()
    page.get_by_role("button", name="Normal 1", exact=True).click()
    wait_for_verdict(page, "Pneumonia unlikely")
    settle(page)
    page.get_by_role("button", name="Pneumonia 1", exact=True).click()
    wait_for_verdict(page, "Pneumonia likely")
    settle(page)
    upload(page, SAMPLES / "normal_2.png")
    wait_for_verdict(page, "Pneumonia unlikely")
    settle(page)
    assert "sample=" not in page.url
    page.go_back()
    wait_for_verdict(page, "Pneumonia likely")
    assert "sample=pneumonia_1" in page.url
    settle(page)
    page.go_back()
    wait_for_verdict(page, "Pneumonia unlikely")
    assert "sample=normal_1" in page.url
    settle(page)
    page.go_forward()
    wait_for_verdict(page, "Pneumonia likely")
    assert "sample=pneumonia_1" in page.url
    settle(page)
    page.go_back()
    settle(page)
    page.go_back()  # to before the first sample; the upload is still there
    wait_for_verdict(page, "Pneumonia unlikely")
    assert "sample=" not in page.url
    settle(page)
    page.get_by_role("button", name="Close film").click()
    page.get_by_text("Drop a film, paste one").wait_for()
