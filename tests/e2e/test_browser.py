"""The page in a real Chromium: every way through it, with screenshots in ``output``."""

import csv
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from tests.conftest import ROOT, SAMPLES, load_photograph, make_dicom, png, save_dicom

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OUTPUT = Path(__file__).parent / "output"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

# as on a read-only file system: there is nowhere to put a temporary file
SERVER = "import tempfile; tempfile.tempdir = '/nowhere'; from streamlit.web.cli import main; main()"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def url():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = str(ROOT / "streamlit_app" / "app.py")
    command = [sys.executable, "-c", SERVER, "run", app, "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1"]
    environment = os.environ | {"STREAMLIT_SERVER_HEADLESS": "true"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as server:
        address = f"http://127.0.0.1:{port}"
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
        server.terminate()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """What visitors bring, by name."""
    folder = tmp_path_factory.mktemp("films")
    film = np.asarray(Image.open(SAMPLES / "pneumonia_2.png").convert("L"))
    (folder / "photograph.png").write_bytes(png(load_photograph()))
    Image.fromarray(255 - film).save(folder / "negative.png")
    large = np.asarray(Image.fromarray(film).resize((1800, 1600))).astype(np.uint16) * 16
    (folder / "film.dcm").write_bytes(save_dicom(make_dicom(large, BitsStored=12, HighBit=11)))
    (folder / "damaged.png").write_bytes(b"no image at all")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(url, browser):
    """A function that opens the page, at an address of it, in a session of its own."""
    pages = []

    def open_one(address: str = "", width: int = 1280, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": 1100}, color_scheme=scheme)
        page.set_default_timeout(60_000)
        page.goto(url + address)
        page.get_by_text("Drop chest X-rays here").first.wait_for()
        pages.append(page)
        return page

    yield open_one
    for page in pages:
        page.close()


def upload(page, *paths: Path) -> None:
    page.locator("input[type=file]").set_input_files(paths)


def wait_for_verdict(page, words: str):
    verdict = page.get_by_role("heading", name=re.compile(f"^{words}"))
    verdict.wait_for()
    page.get_by_role("heading", name=re.compile("from file to picture")).wait_for()
    return verdict


def settle(page) -> None:
    """Wait until the page is drawn; what is about to be drawn anew is faded meanwhile."""
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
    page.wait_for_timeout(600)


def keep(page, name: str) -> None:
    """A screenshot of the whole page."""
    settle(page)
    OUTPUT.mkdir(exist_ok=True)
    size = page.viewport_size
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": size["width"], "height": min(height, 4000)})
    page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    page.screenshot(path=OUTPUT / f"{name}.png")
    page.set_viewport_size(size)
    assert (OUTPUT / f"{name}.png").stat().st_size > 20_000
    assert page.get_by_test_id("stException").count() == 0


def check_accessibility(page) -> None:
    """No violation of WCAG 2.1 A and AA that axe can find."""
    if page.get_by_test_id("stApp").count():
        settle(page)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": tags}}).response["violations"]
    assert not found, [(v["id"], [node["html"][:200] for node in v["nodes"]]) for v in found]


@pytest.mark.parametrize(("name", "width", "scheme"), [("wide", 1280, "light"), ("phone", 390, "dark")])
def test_upload_gets_a_verdict(open_page, name, width, scheme):
    page = open_page(width=width, scheme=scheme)
    page.get_by_text("Drop a film or click a sample").wait_for()
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
    page.get_by_text("This file cannot be scored").wait_for()
    keep(page, "bad_file")
    check_accessibility(page)
    page.get_by_role("button", name="Normal 1", exact=True).click()
    wait_for_verdict(page, "Pneumonia unlikely")
    assert page.get_by_text("This file cannot be scored").count() == 0


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
    page.get_by_text("This film looks inverted").wait_for()
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
    page.get_by_text("What if the threshold were another?").click()
    page.get_by_text(re.compile("^Of 100 children")).wait_for()
    keep(page, "comparison")
    check_accessibility(page)


def test_many_films_with_a_bad_one_among_them(open_page, files):
    page = open_page()
    paths = [SAMPLES / "normal_1.png", files["damaged"], files["photograph"], SAMPLES / "pneumonia_1.png"]
    upload(page, *paths)
    page.get_by_role("heading", name="1 of 2 films: pneumonia likely").wait_for()
    keep(page, "batch")
    check_accessibility(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV", exact=True).click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert [row["path"] for row in rows] == [path.name for path in paths]
    assert [row["label"] for row in rows] == ["NORMAL", "", "", "PNEUMONIA"]
    assert [row["screening"] for row in rows] == ["typical", "", "refused", "typical"]
    assert "no image of a known format" in rows[1]["error"]


def test_report(open_page, tmp_path):
    page = open_page("/?sample=normal_2&model=float32")
    wait_for_verdict(page, "Pneumonia unlikely")
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


def test_the_viewer_by_keyboard(open_page):
    page = open_page("/?sample=pneumonia_1")
    wait_for_verdict(page, "Pneumonia likely")
    settle(page)
    pictures = page.locator(".pictures")
    film = page.get_by_role("img", name=re.compile("^Chest film of"))
    width = pictures.bounding_box()["width"]
    page.get_by_label("Zoom").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert pictures.bounding_box()["width"] == pytest.approx(2 * width, rel=0.01)
    page.get_by_role("button", name="Invert").press("Enter")
    assert "invert(1)" in film.evaluate("film => film.style.filter")
    page.get_by_label("Evidence").fill("0")
    assert page.locator("img.layer").evaluate("layer => layer.style.opacity") == "0"
    page.get_by_role("button", name="Reset").press("Enter")
    assert pictures.bounding_box()["width"] == pytest.approx(width, rel=0.01)
    assert "invert" not in film.evaluate("film => film.style.filter")


def test_a_sample_by_keyboard(open_page):
    page = open_page()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText").strip() == "Normal 2":
            break
    page.keyboard.press("Enter")
    wait_for_verdict(page, "Pneumonia unlikely")
    assert "sample=normal_2" in page.url


def test_a_row_of_the_table_opens_its_film(open_page, files):
    page = open_page()
    upload(page, SAMPLES / "normal_1.png", files["photograph"])
    page.get_by_role("heading", name="0 of 1 films: pneumonia likely").wait_for()
    page.get_by_text("Show scores of refused films too").click()
    page.get_by_role("heading", name=re.compile("of 2 films: pneumonia likely")).wait_for()
    table = page.get_by_test_id("stDataFrame")
    table.click(position={"x": 18, "y": 35 + 56 + 28})  # the box of the second row
    wait_for_verdict(page, "Pneumonia (un)?likely.*Refused film, scored anyway")
    keep(page, "row")


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


def test_a_drop_of_more_than_a_session_may_hold_gets_a_sentence(open_page, tmp_path):
    paths = []
    for i in range(6):  # the last two are too many
        path = tmp_path / f"{i}.png"
        path.write_bytes(bytes(64 * 2**20))
        paths.append(path)
    page = open_page()
    upload(page, *paths)
    page.get_by_text("Received 2 files of 128 MB too many, not taken. One session").wait_for()
    page.get_by_role("heading", name="0 of 0 films: pneumonia likely").wait_for()
    keep(page, "too_many_bytes")
    assert page.get_by_text("AxiosError").count() == 0
    page.get_by_role("button", name="Normal 1", exact=True).click()
    wait_for_verdict(page, "Pneumonia unlikely")
    assert page.get_by_text("too many, not taken").count() == 0


def test_the_table_has_no_export_of_its_own(open_page, files):
    page = open_page()
    upload(page, SAMPLES / "normal_1.png", files["photograph"])
    page.get_by_role("heading", name="0 of 1 films: pneumonia likely").wait_for()
    page.get_by_test_id("stDataFrame").hover()
    page.get_by_role("button", name="Fullscreen: One row per film").wait_for()
    assert page.get_by_role("button", name="Download as CSV").count() == 1  # the page's, which is safe


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
    page.go_back()
    page.get_by_text("Drop a film or click a sample").wait_for()
    assert "sample=" not in page.url


def test_settings_of_the_viewer_end_with_their_film(open_page):
    page = open_page("/?sample=pneumonia_1")
    wait_for_verdict(page, "Pneumonia likely")
    settle(page)
    film = page.get_by_role("img", name=re.compile("^Chest film of"))
    page.get_by_label("Zoom").fill("300")
    page.get_by_label("Contrast").fill("200")
    page.get_by_role("button", name="Invert").press("Enter")
    assert "invert(1)" in film.evaluate("film => film.style.filter")
    page.get_by_text("What if the threshold were another?").click()
    page.get_by_role("slider", name="Threshold").press("ArrowRight")  # the film is the same
    settle(page)
    assert "invert(1)" in film.evaluate("film => film.style.filter")
    page.get_by_role("button", name="Normal 1", exact=True).click()
    wait_for_verdict(page, "Pneumonia unlikely")
    settle(page)
    assert film.evaluate("film => film.style.filter") == "brightness(1) contrast(1)"
    assert page.locator(".pictures").evaluate("p => p.style.transform").startswith("scale(1)")
    assert page.get_by_label("Zoom").input_value() == "100"
