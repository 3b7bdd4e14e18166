"""From an upload's bytes to verdict and overlay, beside the usual page on TensorFlow and Keras.

Command, after ``python -m benchmarks.peers``::

    python -m benchmarks.whole_path --model runs/peers/160/keras.h5

Time of a film in a warm process; from a process' start to the first verdict: of the runtime, of the
page's script without a browser, and of server and browser; the memory then; and what is installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.films import SAMPLES, make_film
from benchmarks.server import ROOT, memory_mb, serve
from benchmarks.table import print_rows

OURS, USUAL, COMPILED = "this project", "TensorFlow page", "TensorFlow page, compiled by tf.function"
WIDTH, HEIGHT = 2000, 1600
USUAL_PACKAGES = ("streamlit", "tensorflow", "tf-keras", "pillow", "numpy", "opencv-python-headless")
PAUSE_S = 0.02
FLAGS = ["--no-sandbox", "--disable-gpu"]

COLD_OURS = """
from cxr import Classifier, read_image
print(Classifier.load("int8").predict(read_image({film!r})).probability, flush=True)
print(open("/proc/self/status").read())
"""
COLD_SCRIPT = """
from pathlib import Path
from streamlit.testing.v1 import AppTest
page = AppTest.from_file({script!r}, default_timeout=120).run()
page.file_uploader[0].upload("film.jpg", Path({film!r}).read_bytes(), "image/jpeg")
page.run()
print(float(any("neumonia" in heading.value for heading in [*page.header, *page.subheader])), flush=True)
print(open("/proc/self/status").read())
"""
COLD_USUAL = """
from pathlib import Path
from benchmarks.usual_app import load_model, process
print(process(load_model({model!r}), Path({film!r}).read_bytes())[0], flush=True)
print(open("/proc/self/status").read())
"""


def time_films(model: Path, rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds of a film, float64 (rounds,), taking turns."""
    import tensorflow as tf

    from benchmarks import usual_app
    from cxr import Classifier, overlay_evidence, read_image

    classifier, network = Classifier.load("int8"), usual_app.load_model(str(model))
    compiled = tf.function(lambda image: usual_app.classify(network, image))

    def ours(data: bytes) -> None:
        pixels = read_image(io.BytesIO(data))
        overlay_evidence(pixels, classifier.predict(pixels).evidence, classifier.card.evidence_scale)

    calls: dict[str, Callable[[bytes], object]] = {
        OURS: ours,
        USUAL: lambda data: usual_app.process(network, data),
        COMPILED: lambda data: usual_app.process(network, data, lambda _, image: compiled(image)),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    films = [make_film(WIDTH, HEIGHT, number) for number in range(4)]
    for turn in range(2 + rounds):
        for name, call in calls.items():
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            call(films[turn % len(films)])
            if turn >= 2:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: np.array(values) for name, values in times.items()}


def start_runtime(code: str) -> tuple[float, float]:
    """Seconds from a process' start to its first line, the verdict, and its memory then in MB.

    Raises:
        RuntimeError: if there is no verdict.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        verdict = process.stdout.readline()
        seconds = time.perf_counter() - start
        if not verdict or not float(verdict):
            raise RuntimeError(f"received {verdict!r}; accepted is a probability, from {code}")
        status = process.stdout.read()
    return seconds, int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def start_page(browser: Browser, script: Path, verdict: Callable[[Page], object]) -> tuple[float, float]:
    """Seconds from a server's start to a verdict on screen, and the server's memory then in MB."""
    start = time.perf_counter()
    with serve(script) as (url, pid):
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(url)
        film = {"name": "film.jpg", "mimeType": "image/jpeg", "buffer": make_film(WIDTH, HEIGHT)}
        drop_zone = page.locator("input[type=file]")
        drop_zone.wait_for(state="attached")
        drop_zone.set_input_files(film)
        verdict(page)
        seconds = time.perf_counter() - start
        memory = memory_mb(pid, "VmRSS")
        page.close()
    return seconds, memory


def installed_mb(names: Iterator[str] | tuple[str, ...]) -> float:
    """What distributions and all that they require take on disk here, in MB."""
    total, pending, done = 0, list(names), set()
    while pending:
        name = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        if name in done:
            continue
        done.add(name)
        distribution = importlib.metadata.distribution(name)
        files = (Path(file.locate()) for file in distribution.files or ())
        total += sum(file.stat().st_size for file in files if file.is_file())
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending.append(requirement.name)
    return total / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.whole_path", description="Upload to verdict, beside the usual page."
    )
    parser.add_argument("--model", type=Path, required=True, help="keras.h5 of benchmarks.peers")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    args = parser.parse_args()
    model = args.model.resolve()
    os.environ["USUAL_MODEL"] = str(model)

    lines = (ROOT / "requirements.txt").read_text().splitlines()
    own = tuple(Requirement(line).name for line in lines if line and not line.startswith("#"))
    sizes = {OURS: np.array([installed_mb(own)]), USUAL: np.array([installed_mb(USUAL_PACKAGES)])}
    print_rows("installed packages", sizes, OURS, "MB")

    codes = {OURS: COLD_OURS, USUAL: COLD_USUAL}
    codes = {n: code.format(film=str(SAMPLES[-1]), model=str(model)) for n, code in codes.items()}
    starts = {
        name: np.array([start_runtime(code) for _ in range(args.starts)]) for name, code in codes.items()
    }
    print_rows("runtime, start to first verdict", {n: v[:, 0] for n, v in starts.items()}, OURS, "s")
    print_rows("memory of the runtime then", {n: v[:, 1] for n, v in starts.items()}, OURS, "MB")

    scripts = {OURS: ROOT / "streamlit_app" / "app.py", USUAL: ROOT / "benchmarks" / "usual_app.py"}
    codes = {n: COLD_SCRIPT.format(film=str(SAMPLES[-1]), script=str(s)) for n, s in scripts.items()}
    starts = {n: np.array([start_runtime(code) for _ in range(args.starts)]) for n, code in codes.items()}
    print_rows(
        "page's script, start to first verdict", {n: v[:, 0] for n, v in starts.items()}, OURS, "s"
    )
    print_rows("memory of the script then", {n: v[:, 1] for n, v in starts.items()}, OURS, "MB")

    pages = {
        OURS: (
            scripts[OURS],
            lambda page: page.locator('img[alt^="Chest film"]').wait_for(),
        ),
        USUAL: (
            scripts[USUAL],
            lambda page: (
                page.get_by_text("Pneumonia probability").wait_for(),
                page.get_by_role("img").wait_for(),
            ),
        ),
    }
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=args.chromium, args=FLAGS)
        first = {
            n: np.array([start_page(browser, *p) for _ in range(args.starts)]) for n, p in pages.items()
        }
        browser.close()
    print_rows(
        "server and browser, start to first verdict", {n: v[:, 0] for n, v in first.items()}, OURS, "s"
    )
    print_rows("memory of the server then", {n: v[:, 1] for n, v in first.items()}, OURS, "MB")

    title = f"a film of {WIDTH} x {HEIGHT} px, bytes to verdict and overlay"
    print_rows(title, time_films(model, args.rounds), OURS, "ms")


if __name__ == "__main__":
    main()
