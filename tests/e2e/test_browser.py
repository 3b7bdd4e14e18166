"""The page in a real Chromium: upload a film, read the verdict, keep a screenshot."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import ROOT, SAMPLES

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OUTPUT = Path(__file__).parent / "output"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def url():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = str(ROOT / "streamlit_app" / "app.py")
    command = [sys.executable, "-m", "streamlit", "run", app, "--server.port", str(port)]
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
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.parametrize(("name", "width", "scheme"), [("wide", 1280, "light"), ("phone", 390, "dark")])
def test_upload_gets_a_verdict(url, browser, name, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 1100}, color_scheme=scheme)
    page.goto(url)
    page.get_by_text("Drop a film or click a sample").wait_for(timeout=60_000)
    page.locator("input[type=file]").set_input_files(SAMPLES / "pneumonia_2.png")
    verdict = page.get_by_role("heading", name=re.compile(r"^Pneumonia likely\s+(over )?0\.\d\d$"))
    verdict.wait_for(timeout=60_000)
    page.get_by_role("heading", name=re.compile("from file to picture")).wait_for(timeout=60_000)
    page.get_by_text("Compare float32 and int8 on this film").wait_for(state="attached")
    film = page.get_by_test_id("stImage").last.locator("img")
    film.wait_for()
    page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.get_by_test_id("stException").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert verdict.bounding_box()["y"] < film.bounding_box()["y"]
    OUTPUT.mkdir(exist_ok=True)
    page.screenshot(path=OUTPUT / f"{name}.png")
    assert (OUTPUT / f"{name}.png").stat().st_size > 20_000
    page.close()


def test_a_bad_file_is_refused_and_a_sample_recovers(url, browser, tmp_path):
    bad = tmp_path / "film.png"
    bad.write_bytes(b"no image at all")
    page = browser.new_page()
    page.goto(url)
    page.get_by_text("Drop a film or click a sample").wait_for(timeout=60_000)
    page.locator("input[type=file]").set_input_files(bad)
    page.get_by_text("This file cannot be scored").wait_for(timeout=60_000)
    page.get_by_role("button", name="Normal 1").click()
    page.get_by_role("heading", name=re.compile("^Pneumonia unlikely")).wait_for(timeout=60_000)
    assert page.get_by_text("This file cannot be scored").count() == 0
    page.close()
