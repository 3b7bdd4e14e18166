"""Measure what a visitor waits for in a browser, on a fast and on a slow connection.

Command, with Chromium::

    python -m benchmarks.page

A relay between browser and server delays, limits and counts what passes, websocket and files alike.
Times end when the browser has drawn what was asked for. The layout shift is the sum of all that the
browser reports, without those within half a second of a click (https://web.dev/cls).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import numpy as np
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from benchmarks.films import make_film
from benchmarks.server import CHROMIUM_FLAGS, ROOT, find_chromium, serve
from benchmarks.table import print_rows
from streamlit_app.what_if import BOX, LUNGS

FAST, SLOW = "this machine", "1.6 Mbit/s, 150 ms"
CHUNK_BYTES = 4096
AHEAD_S = 0.05  # of sending, that a relay reads
SAMPLES = ("Pneumonia 1", "Normal 1")
VIEWPORT = {"width": 1440, "height": 1000}
SHIFTS = """
window.shift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


@dataclasses.dataclass
class Link:
    """A connection that all requests share.

    Attributes:
        bytes_per_s: in each direction.
        delay_s: from one end to the other.
        received: bytes that the browser has received.
    """

    bytes_per_s: float = float("inf")
    delay_s: float = 0.0
    received: int = 0


class _Direction:
    """One direction of a link: when it has sent what it was given."""

    def __init__(self, link: Link) -> None:
        self.link, self.free_at = link, 0.0

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, down: bool) -> None:
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(self._send(waiting, writer))
        data = b"."
        while data:
            try:
                data = await reader.read(CHUNK_BYTES)
            except ConnectionError:
                data = b""
            now = asyncio.get_running_loop().time()
            self.free_at = max(self.free_at, now) + len(data) / self.link.bytes_per_s
            self.link.received += len(data) * down
            waiting.put_nowait((self.free_at + self.link.delay_s, data))
            await asyncio.sleep(max(self.free_at - now - AHEAD_S, 0.0))
        await sending

    async def _send(
        self, waiting: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        data = b"."
        while data:
            due, data = await waiting.get()
            await asyncio.sleep(max(due - asyncio.get_running_loop().time(), 0.0))
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.contextmanager
def connect(url: str, link: Link) -> Iterator[str]:
    """Relay to a server through a link until the block ends. Yields the address of the relay."""
    target = urlsplit(url)
    up, down = _Direction(link), _Direction(link)
    started: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = queue.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(target.hostname, target.port)
        with (
            contextlib.closing(writer),
            contextlib.closing(far_writer),
            contextlib.suppress(asyncio.CancelledError),  # the relay ends
        ):
            await asyncio.gather(
                up.relay(reader, far_writer, down=False), down.relay(far_reader, writer, down=True)
            )

    async def relay() -> None:
        server, stop = await asyncio.start_server(accept, "127.0.0.1", 0), asyncio.Event()
        started.put((asyncio.get_running_loop(), stop, server.sockets[0].getsockname()[1]))
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(relay()), daemon=True)
    thread.start()
    loop, stop, port = started.get()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def take(act: Callable[[], object], wait: Callable[[], object]) -> float:
    """Seconds from an act of the visitor until what it waits for is there."""
    start = time.perf_counter()
    act()
    wait()
    return time.perf_counter() - start


def visit(browser: Browser, url: str, link: Link, rounds: int) -> dict[str, list[float]]:
    """What one visitor measures with an empty cache, by the name of the measurement."""
    page = browser.new_page(viewport=VIEWPORT)
    page.set_default_timeout(120_000)
    page.add_init_script(SHIFTS)
    own: list[int] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda data: own.append(len(data))))
    measured: dict[str, list[float]] = {}
    drawn = page.get_by_role("img", name="A film, its lungs, and the evidence")
    first_s = take(lambda: page.goto(url), drawn.wait_for)
    _settle(page)
    measured["first visit, until its pictures are drawn"] = [first_s]
    measured["kB of the page's own before a verdict"] = [sum(own) / 1e3]
    measured["kB of Streamlit's frontend"] = [(link.received - sum(own)) / 1e3]
    measured["layout shift of the first visit"] = [page.evaluate("window.shift")]
    clicks, uploads, erasures, drags = [], [], [], []
    for number in range(rounds):
        button = page.get_by_role("button", name=SAMPLES[number % 2], exact=True)
        before = _find_source(page)
        clicks.append(take(button.click, lambda before=before: _wait_for_another(page, before)))
        _settle(page)
        erasures.append(_erase_lungs(page))
        _withdraw(page, LUNGS)
        drags.append(_erase_box(page))
        _withdraw(page, BOX)
    measured["click on a sample, until its verdict and picture"] = clicks
    measured["erase the lungs, until the new score"] = erasures
    measured["drag a box, until the new score"] = drags
    drop_zone = page.get_by_test_id("stFileUploaderDropzoneInput")
    for number in range(rounds):
        width = 1600 + 2 * number
        film = {"name": "film.jpg", "mimeType": "image/jpeg", "buffer": make_film(width, 1250, number)}
        picture = page.locator(f'img[alt^="Chest film of {width} by"]').first
        uploads.append(take(lambda film=film: drop_zone.set_input_files(film), picture.wait_for))
        _settle(page)
        page.get_by_role("button", name="Close film").click()
        drawn.wait_for()
        _settle(page)
    measured["upload of 2 megapixels, until its picture"] = uploads
    measured["layout shift of the whole session"] = [page.evaluate("window.shift")]
    page.close()
    return measured


def _find_source(page: Page) -> str:
    """The address of the picture of the film that is shown, or nothing."""
    shown = page.locator('img[alt^="Chest film"]')
    return shown.first.get_attribute("src") if shown.count() else ""


def _wait_for_another(page: Page, source: str) -> None:
    """Wait until the verdict is there, and the picture of another film is drawn."""
    page.get_by_role("heading", name=re.compile("^Pneumonia (un)?likely")).first.wait_for()
    picture = page.locator('img[alt^="Chest film"]').first
    picture.wait_for()
    picture.evaluate(
        """(image, source) => new Promise((resolve) => {
          const look = () => image.src !== source && image.complete && image.naturalWidth
            ? resolve() : requestAnimationFrame(look);
          look();
        })""",
        source,
    )


def _erase_lungs(page: Page) -> float:
    """Seconds from a click that erases the lungs until the new score."""
    return take(page.get_by_role("radio", name=LUNGS).click, _find_score(page).wait_for)


def _erase_box(page: Page) -> float:
    """Seconds from the end of a drag until the new score."""
    page.get_by_role("radio", name=BOX).click()
    _settle(page)
    film = page.locator(".stage")
    film.scroll_into_view_if_needed()
    box = film.bounding_box()
    corners = [
        (box["x"] + share * box["width"], box["y"] + share * box["height"]) for share in (0.3, 0.6)
    ]
    page.mouse.move(*corners[0])
    page.mouse.down()
    page.mouse.move(*corners[1], steps=4)
    return take(page.mouse.up, _find_score(page).wait_for)


def _find_score(page: Page) -> Locator:
    return page.get_by_text(re.compile(r"becomes .*:"))


def _withdraw(page: Page, part: str) -> None:
    """Show the film as it is again."""
    _settle(page)
    page.get_by_role("radio", name=part).click()
    _find_score(page).wait_for(state="hidden")
    _settle(page)


def _settle(page: Page) -> None:
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
    page.wait_for_timeout(500)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.page", description="What a visitor waits for in a browser."
    )
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    links = {FAST: Link(), SLOW: Link(bytes_per_s=1.6e6 / 8, delay_s=0.075)}
    measured: dict[str, dict[str, list[float]]] = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        with serve(ROOT / "streamlit_app" / "app.py") as (url, _):
            with connect(url, Link()) as address:
                visit(browser, address, Link(), 2)  # loads what all sessions share
            for name, link in links.items():
                with connect(url, link) as address:
                    measured[name] = visit(browser, address, link, args.rounds)
        browser.close()
    for title in measured[FAST]:
        unit = "kB" if title.startswith("kB") else "" if title.startswith("layout") else "s"
        samples = {name: np.array(values[title]) for name, values in measured.items()}
        print_rows(f"page, {title}", samples, FAST, unit)


if __name__ == "__main__":
    main()
