"""Measure from the bytes of an upload to verdict and picture, against the baseline page on TensorFlow.

Command, after ``python -m benchmarks.peers``::

    python -m benchmarks.end_to_end --model runs/peers/160/keras.h5

It measures the time of a film in a warm process; the time from the start of a process to the first
verdict, and the memory then, for the runtime, for the script of the page without a browser, and for
server and browser; and the size of the installed packages.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement
from playwright.sync_api import Browser, sync_playwright

from benchmarks.films import SAMPLES, make_film
from benchmarks.server import CHROMIUM_FLAGS, ROOT, find_chromium, memory_mb, serve
from benchmarks.table import print_rows

OURS, BASELINE, COMPILED = "this project", "TensorFlow page", "TensorFlow page, compiled by tf.function"
WIDTH, HEIGHT = 2000, 1600
BASELINE_PACKAGES = ("streamlit", "tensorflow", "tf-keras", "pillow", "numpy", "opencv-python-headless")
PAUSE_S = 0.02

COLD_OURS = """
from cxr import Classifier, overlay_evidence, read_image
classifier, pixels = Classifier.load("int8"), read_image({film!r})
prediction = classifier.predict(pixels)
overlay_evidence(pixels, prediction.evidence, classifier.card.evidence_scale)
print(prediction.probability, flush=True)
input()  # wait until the memory is read
"""
COLD_SCRIPT = """
from pathlib import Path
from streamlit.testing.v1 import AppTest
page = AppTest.from_file({script!r}, default_timeout=120).run()
page.file_uploader[0].upload("film.jpg", Path({film!r}).read_bytes(), "image/jpeg")
page.run()
print(float(any("neumonia" in heading.value for heading in [*page.header, *page.subheader])), flush=True)
input()  # wait until the memory is read
"""
COLD_BASELINE = """
from pathlib import Path
from benchmarks.baseline_model import load_model, process
print(process(load_model({model!r}), Path({film!r}).read_bytes())[0], flush=True)
input()  # wait until the memory is read
"""


def time_films(model: Path, rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds of what each page does with a film, float64 (rounds,), measured in turns."""
    import tensorflow as tf

    from benchmarks import baseline_model
    from cxr import Classifier, read_image
    from streamlit_app.viewer import make_drawing

    classifier, network = Classifier.load("int8"), baseline_model.load_model(str(model))
    compiled = tf.function(lambda image: baseline_model.classify(network, image))

    def ours(data: bytes) -> None:
        pixels = read_image(io.BytesIO(data))
        make_drawing(pixels, classifier.predict(pixels), classifier.card)

    def theirs(data: bytes, run=baseline_model.classify) -> None:
        baseline_model.encode(baseline_model.process(network, data, run)[1])

    calls: dict[str, Callable[[bytes], object]] = {
        OURS: ours,
        BASELINE: theirs,
        COMPILED: lambda data: theirs(data, lambda _, image: compiled(image)),
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
    """Seconds from the start of a process to its first line, the verdict, and its memory then in MB.

    Raises:
        RuntimeError: if there is no verdict.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        verdict = process.stdout.readline()
        seconds = time.perf_counter() - start
        if not verdict or not float(verdict):
            raise RuntimeError(f"received {verdict!r}; accepted is a probability, from {code}")
        memory = memory_mb(process.pid, "VmRSS")
        process.stdin.close()
    return seconds, memory


def start_page(browser: Browser, script: Path, verdict: str) -> tuple[float, float]:
    """Seconds from the start of a server to a verdict on screen, and its memory then in MB."""
    film = {"name": "film.jpg", "mimeType": "image/jpeg", "buffer": make_film(WIDTH, HEIGHT)}
    start = time.perf_counter()
    with serve(script) as (url, pid):
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(url)
        drop_zone = page.get_by_test_id("stFileUploaderDropzoneInput")
        drop_zone.wait_for(state="attached")
        drop_zone.set_input_files(film)
        page.locator(verdict).first.wait_for()
        seconds = time.perf_counter() - start
        memory = memory_mb(pid, "VmRSS")
        page.close()
    return seconds, memory


def print_starts(
    title: str, memory_title: str, calls: dict[str, Callable[[], tuple[float, float]]], starts: int
) -> None:
    """Print rows of seconds and of MB. The pages take turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(starts):
        for name, call in calls.items():
            taken[name].append(call())
    seconds = {name: np.array([s for s, _ in pairs]) for name, pairs in taken.items()}
    memory = {name: np.array([mb for _, mb in pairs]) for name, pairs in taken.items()}
    print_rows(title, seconds, OURS, "s")
    print_rows(memory_title, memory, OURS, "MB")


def installed_mb(names: tuple[str, ...]) -> float:
    """Disk space of distributions and of all that they require, in MB."""
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
        prog="python -m benchmarks.end_to_end", description="Upload to verdict, beside the baseline page."
    )
    parser.add_argument("--model", type=Path, required=True, help="keras.h5 of benchmarks.peers")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--starts", type=int, default=5)
    args = parser.parse_args()
    model = args.model.resolve()
    os.environ["BASELINE_MODEL"] = str(model)

    lines = (ROOT / "requirements.txt").read_text().splitlines()
    own = tuple(Requirement(line).name for line in lines if line and not line.startswith("#"))
    sizes = {OURS: np.array([installed_mb(own)]), BASELINE: np.array([installed_mb(BASELINE_PACKAGES)])}
    print_rows("installed packages", sizes, OURS, "MB")

    film, scripts = (
        str(SAMPLES[-1]),
        {OURS: "streamlit_app/app.py", BASELINE: "benchmarks/baseline_app.py"},
    )
    codes = {OURS: COLD_OURS, BASELINE: COLD_BASELINE}
    calls = {n: partial(start_runtime, c.format(film=film, model=str(model))) for n, c in codes.items()}
    print_starts("runtime, start to first verdict", "memory of the runtime then", calls, args.starts)
    code = partial(COLD_SCRIPT.format, film=film)
    calls = {n: partial(start_runtime, code(script=str(ROOT / s))) for n, s in scripts.items()}
    print_starts("page's script with a film, start to end", "memory of that", calls, args.starts)
    verdicts = {OURS: 'img[alt^="Chest film"]', BASELINE: '[data-testid="stImage"] img'}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        calls = {n: partial(start_page, browser, ROOT / s, verdicts[n]) for n, s in scripts.items()}
        title = "server and browser, start to first verdict"
        print_starts(title, "memory of the server then", calls, args.starts)
        browser.close()

    title = f"a film of {WIDTH} x {HEIGHT} px, bytes to verdict and encoded picture"
    print_rows(title, time_films(model, args.rounds), OURS, "ms")


if __name__ == "__main__":
    main()
