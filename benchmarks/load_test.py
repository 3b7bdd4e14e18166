"""Load test: many visitors on one server. It measures crossed results, time to verdict and memory.

Sessions without a browser (``benchmarks.visitor``) use one ``streamlit run`` on this machine::

    python -m benchmarks.load_test --visitors 1 50

Each visitor uploads a film of about two megapixels every ten seconds. Its size is one that no other
visitor's film has. The page must show this film and its probability by the classifier. Times are from the
upload until the page's run has ended. The server's processor time is measured twice: for films that one
open session shows without a pause, and for all sessions, with their opening and the time between films.
A run with real browsers checks at the end that they get the same.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import sys
import time

import numpy as np
import pandas as pd
from playwright.async_api import Browser, async_playwright

from benchmarks.films import make_film
from benchmarks.server import CHROMIUM_FLAGS, ROOT, cpu_seconds, find_chromium, memory_mb, serve
from benchmarks.visitor import Visitor
from cxr import Classifier, read_image
from cxr.latency import cpu_name
from cxr.rounding import format_probability

WIDTH, HEIGHT = 1600, 1250  # px of the first film
FILMS = 4  # of each visitor
REPEATS = 5  # of the first visitor's films, for the processor time of a film
INTERVAL_S = 10.0  # from one film of a visitor to the next
SETTLE_S = 150  # Streamlit keeps a closed session for two minutes, in case it reconnects
BROWSERS = 2

Upload = tuple[bytes, str, str]  # the file, its description on the page, its probability there


def draw_upload(classifier: Classifier, visitor: int, number: int) -> Upload:
    """A JPEG that only this visitor has, and what the page must say of it."""
    width, height = WIDTH + 2 * visitor, HEIGHT + 2 * number
    film = make_film(width, height, visitor + number, grain=0.0)
    probability, card = classifier.predict(read_image(io.BytesIO(film))).probability, classifier.card
    shown = format_probability(probability, card.threshold, *card.uncertain)
    return film, f"Chest film of {width} by {height} pixels", shown


async def visit(url: str, uploads: list[Upload], delay_s: float) -> tuple[list[float], int]:
    """Run one session. Returns the seconds of each upload, and how many results were not its own."""
    await asyncio.sleep(delay_s)
    seconds, wrong = [], 0
    async with Visitor(url) as visitor:
        for film, description, probability in uploads:
            start = time.perf_counter()
            taken, verdict, shown = await visitor.show(film)
            seconds.append(taken)
            if shown != description or probability not in verdict:
                wrong += 1
                print(f"expected {description}, {probability}; got {shown}, {verdict}", file=sys.stderr)
            await asyncio.sleep(max(INTERVAL_S - (time.perf_counter() - start), 0.0))
    return seconds, wrong


async def drive(url: str, uploads: list[list[Upload]]) -> tuple[list[float], int]:
    """Run the sessions of all visitors at the same time; they come one after the other."""
    delays = [INTERVAL_S * i / len(uploads) for i in range(len(uploads))]
    results = await asyncio.gather(*(visit(url, *pair) for pair in zip(uploads, delays, strict=True)))
    return [s for seconds, _ in results for s in seconds], sum(wrong for _, wrong in results)


async def spend(url: str, pid: int, films: list[bytes]) -> float:
    """The server's processor time for a film, s: one open session shows them, one after the other."""
    async with Visitor(url) as visitor:
        await visitor.show(films[-1])
        before = cpu_seconds(pid)
        for film in films:
            await visitor.show(film)
        return (cpu_seconds(pid) - before) / len(films)


async def visit_by_browser(browser: Browser, url: str, uploads: list[Upload]) -> int:
    """Run one session in a browser. Returns how many results were not its own."""
    page = await browser.new_page()
    page.set_default_timeout(120_000)
    await page.goto(url)
    await page.get_by_text("Drop chest X-rays anywhere").first.wait_for()
    wrong = 0
    for film, description, probability in uploads:
        drop_zone = page.get_by_test_id("stFileUploaderDropzoneInput")
        await drop_zone.set_input_files({"name": "film.jpg", "mimeType": "image/jpeg", "buffer": film})
        await page.locator(f'img[alt^="{description}"]').wait_for()
        heading = await page.get_by_role("heading", name="Pneumonia").first.inner_text()
        wrong += probability not in heading
        await page.get_by_role("button", name="Remove").first.click()
        await page.get_by_text("Drop a film, paste one, or click a sample").wait_for()
    await page.close()
    return wrong


async def check_browsers(url: str, uploads: list[list[Upload]]) -> int:
    """Run sessions in browsers at the same time. Returns how many results were not their own."""
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        wrong = await asyncio.gather(*(visit_by_browser(browser, url, films) for films in uploads))
        await browser.close()
    return sum(wrong)


def measure(visitors: int, rounds: int, classifier: Classifier) -> dict[str, str]:
    """Measure a new server with visitors who come and go in rounds. Returns a row of the table."""
    uploads = [[draw_upload(classifier, v, n) for n in range(FILMS)] for v in range(visitors)]
    with serve(ROOT / "streamlit_app" / "app.py") as (url, pid):
        alone = asyncio.run(spend(url, pid, [film for film, _, _ in uploads[0]] * REPEATS))
        before, spent = memory_mb(pid, "VmRSS"), cpu_seconds(pid)
        seconds, wrong, after = [], 0, []
        for _ in range(rounds):
            taken, crossed = asyncio.run(drive(url, uploads))
            seconds, wrong = seconds + taken, wrong + crossed
            if rounds > 1:
                time.sleep(SETTLE_S)
            after.append(f"{memory_mb(pid, 'VmRSS'):.0f}")
        spent = (cpu_seconds(pid) - spent) / len(seconds)
        peak = memory_mb(pid, "VmHWM")
    median, p95 = np.percentile(seconds, (50, 95))
    return {
        "visitors at once": f"{visitors}",
        "films": f"{len(seconds)}",
        "wrong results": f"{wrong}",
        "median": f"{median:.2f} s",
        "p95": f"{p95:.2f} s",
        "server's CPU for a film alone": f"{alone:.3f} s",
        "and with sessions and pauses": f"{spent:.2f} s",
        "memory before": f"{before:.0f} MB",
        "peak": f"{peak:.0f} MB",
        "after each round": f"{', '.join(after)} MB",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load_test", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--visitors", type=int, nargs="+", default=[1, 50])
    parser.add_argument(
        "--rounds", type=int, default=1, help="visits of each, with a pause for sessions to end"
    )
    args = parser.parse_args()
    classifier = Classifier.load("int8")
    print(f"{cpu_name()}, {os.cpu_count()} cores for server and visitors\n")
    rows = [measure(visitors, args.rounds, classifier) for visitors in args.visitors]
    print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))
    uploads = [[draw_upload(classifier, v, n) for n in range(FILMS)] for v in range(BROWSERS)]
    with serve(ROOT / "streamlit_app" / "app.py") as (url, _):
        wrong = asyncio.run(check_browsers(url, uploads))
    print(f"\n{BROWSERS} browsers, {BROWSERS * FILMS} films: {wrong} wrong results")


if __name__ == "__main__":
    main()
