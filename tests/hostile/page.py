"""One file through the page, in several browser tabs at once, and what its server takes meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import urllib.request
from pathlib import Path

from playwright.async_api import Browser, Error, async_playwright

from benchmarks.server import CHROMIUM_FLAGS, ROOT, find_chromium, serve
from tests.hostile.measure import MAX_MB, MAX_S, watch

HEALTH_EVERY_S = 0.25
ANSWERS = "[data-testid=stAlertContentError], [data-testid=stMain] h3"
NO_ANSWER = "no answer"


def measure_page(file: Path, tabs: int) -> tuple[float, float, float, str]:
    """Serve the page, upload a file in so many tabs at once, and wait for every tab's answer.

    Returns:
        Seconds until the last answer, the peak memory of the server's processes in MB, the worst answer
        of its health check in ms, and the first words of the answers.
    """
    with serve(ROOT / "streamlit_app" / "app.py") as (url, pid):
        is_over = threading.Event()
        watched: list[tuple[float, str]] = []
        latencies_ms: list[float] = [0.0]
        threads = [
            threading.Thread(target=lambda: watched.append(watch(pid, is_over.is_set, MAX_MB, MAX_S))),
            threading.Thread(target=_check_health, args=(url, is_over, latencies_ms)),
        ]
        for thread in threads:
            thread.start()
        try:
            seconds, answers = asyncio.run(_upload(url, file, tabs))
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
    peak, killed = watched[0]
    outcome = f"killed by the watchdog ({killed})" if killed else "; ".join(sorted(set(answers)))
    return seconds, peak, max(latencies_ms), outcome


def _check_health(url: str, is_over: threading.Event, latencies_ms: list[float]) -> None:
    """Ask again and again until it is over; an answer that never comes counts for as long as it took."""
    while not is_over.wait(HEALTH_EVERY_S):
        start = time.monotonic()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=MAX_S).close()
        latencies_ms.append((time.monotonic() - start) * 1e3)


async def _upload(url: str, file: Path, tabs: int) -> tuple[float, list[str]]:
    """Seconds from the first upload to the last answer, and the answers."""
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        pages = [await _open(browser, url) for _ in range(tabs)]
        start = time.monotonic()
        answers = await asyncio.gather(*(_answer(page, file) for page in pages))
        seconds = time.monotonic() - start
        await browser.close()
    return seconds, answers


async def _open(browser: Browser, url: str):
    page = await browser.new_page()
    page.set_default_timeout(MAX_S * 1e3)
    await page.goto(url)
    await page.get_by_text("Drop chest X-rays anywhere").first.wait_for()
    return page


async def _answer(page, file: Path) -> str:
    """Upload a file. Returns the first words of the page's answer: a verdict, a refusal or an error."""
    try:
        await page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(file)
        answer = page.locator(ANSWERS).first
        await answer.wait_for()
        return " ".join((await answer.inner_text()).split())[:90]
    except Error:  # the server is gone, or too slow
        return NO_ANSWER
