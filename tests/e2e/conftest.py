"""A server with the page, a browser, and what tests do in it; screenshots go to ``output``."""

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

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OUTPUT = Path(__file__).parent / "output"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

# as on a read-only file system, which has no place for temporary files
SERVER = "import tempfile; tempfile.tempdir = '/nowhere'; from streamlit.web.cli import main; main()"


@pytest.fixture(scope="module")
def browser():
    """A browser for one module, because its event loop must not run in other tests."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(browser):
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


@pytest.fixture
def open_page(url, browser):
    """A function that opens the page in its own session, with an address below that of the page."""
    pages = []

    def open_one(address: str = "", width: int = 1280, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": 1100}, color_scheme=scheme)
        page.set_default_timeout(60_000)
        page.goto(url + address)
        page.get_by_text("Drop chest X-rays anywhere").first.wait_for()
        pages.append(page)
        return page

    yield open_one
    for page in pages:
        page.close()


def upload(page, *paths: Path) -> None:
    page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(paths)


def wait_for_verdict(page, words: str):
    verdict = page.get_by_role("heading", name=re.compile(f"^{words}"))
    verdict.wait_for()
    # the heading of the film before may still be there, above the new one, until the page is drawn
    page.get_by_role("heading", name=re.compile("from file to picture")).last.wait_for()
    return verdict


def settle(page) -> None:
    """Wait until the page is drawn; what is about to be drawn again is faded until then."""
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
