"""One real upload to a server that runs already: ``python tests/e2e/smoke.py http://127.0.0.1:8501``.

For the container: needs playwright and a Chromium, and nothing of this project.
"""

import re
import shutil
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

FILM = Path(__file__).resolve().parents[2] / "streamlit_app" / "samples" / "pneumonia_1.png"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


def wait_until_healthy(url: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=2).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def upload_film(url: str) -> str:
    """The verdict that the page shows on a sample film of pneumonia."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)  # or the one of playwright
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(url)
        page.get_by_text("Drop chest X-rays anywhere").first.wait_for()
        page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(FILM)
        verdict = page.get_by_role("heading", name=re.compile(r"^Pneumonia likely\s+(over )?0\.\d\d$"))
        verdict.wait_for()
        page.get_by_role("img", name=re.compile("^Chest film of")).wait_for()
        page.get_by_role("heading", name=re.compile("from file to picture")).wait_for()
        if page.get_by_test_id("stException").count():
            raise RuntimeError("The page shows an exception.")
        words = " ".join(verdict.inner_text().split())
        browser.close()
    return words


if __name__ == "__main__":
    address = sys.argv[1].rstrip("/")
    wait_until_healthy(address)
    print(f"{FILM.name}: {upload_film(address)}")
