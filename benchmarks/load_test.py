"""Load test: many visitors on one server. It measures crossed results, time to verdict and memory.

Real browser sessions use one ``streamlit run`` on this machine::

    python -m benchmarks.load_test --visitors 1 20

Each visitor uploads films of a size that no other visitor has, and checks that the page shows this film
and its probability by the classifier. Times are from the upload until film and verdict are on screen. As
the browsers share the machine's cores with the server, these times are upper bounds of the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import time

import numpy as np
import pandas as pd
from playwright.async_api import Browser, async_playwright

from benchmarks.films import make_film
from benchmarks.server import CHROMIUM_FLAGS, ROOT, cpu_seconds, find_chromium, memory_mb, serve
from cxr import Classifier, read_image
from cxr.latency import cpu_name
from cxr.rounding import format_probability

BASE_PX = 1600
UPLOADS = 5  # per visitor
SETTLE_S = 150  # Streamlit keeps a closed session for two minutes, in case it reconnects


def draw_upload(visitor: int, upload: int) -> tuple[bytes, str]:
    """A JPEG that only this visitor has, and its description on the page."""
    width, height = BASE_PX + 10 * visitor, BASE_PX + 10 * upload
    film = make_film(width, height, visitor + upload, grain=0.0)
    return film, f"Chest film of {width} by {height} pixels"


async def visit(
    browser: Browser, url: str, visitor: int, classifier: Classifier
) -> tuple[list[float], int]:
    """Run one session. Returns the seconds of each upload, and how many results were not its own."""
    page = await browser.new_page()
    page.set_default_timeout(120_000)
    await page.goto(url)
    await page.get_by_text("Drop chest X-rays here").first.wait_for()
    seconds, wrong = [], 0
    for upload in range(UPLOADS):
        data, description = draw_upload(visitor, upload)
        expected = format_probability(classifier.predict(read_image(io.BytesIO(data))).probability)
        start = time.perf_counter()
        drop_zone = page.locator("input[type=file]")
        await drop_zone.set_input_files({"name": "film.jpg", "mimeType": "image/jpeg", "buffer": data})
        await page.locator(f'img[alt^="{description}"]').wait_for()
        seconds.append(time.perf_counter() - start)
        heading = await page.get_by_role("heading", name="Pneumonia").first.inner_text()
        wrong += expected not in heading
        await page.get_by_role("button", name="Remove").first.click()
        await page.get_by_text("Drop a film or click a sample").wait_for()
    await page.close()
    return seconds, wrong


async def drive(url: str, visitors: int, chromium: str) -> tuple[list[float], int]:
    """Run the sessions of all visitors at the same time."""
    classifier = Classifier.load("int8")
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        results = await asyncio.gather(*(visit(browser, url, v, classifier) for v in range(visitors)))
        await browser.close()
    return [s for seconds, _ in results for s in seconds], sum(wrong for _, wrong in results)


def measure(visitors: int, rounds: int, chromium: str) -> dict[str, str]:
    """Measure a new server with visitors who come and go in rounds. Returns a row of the table."""
    with serve(ROOT / "streamlit_app" / "app.py") as (url, pid):
        asyncio.run(drive(url, 1, chromium))  # loads what all sessions share
        before, spent = memory_mb(pid, "VmRSS"), cpu_seconds(pid)
        seconds, wrong, after = [], 0, []
        for _ in range(rounds):
            taken, crossed = asyncio.run(drive(url, visitors, chromium))
            seconds, wrong = seconds + taken, wrong + crossed
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
        "server's CPU per film": f"{spent:.2f} s",
        "memory before": f"{before:.0f} MB",
        "peak": f"{peak:.0f} MB",
        "after each round": f"{', '.join(after)} MB",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load_test", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--visitors", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    print(
        f"{cpu_name()}, {os.cpu_count()} cores for server and browsers; films of about 2.6 megapixels\n"
    )
    rows = [measure(visitors, args.rounds, find_chromium()) for visitors in args.visitors]
    print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))


if __name__ == "__main__":
    main()
