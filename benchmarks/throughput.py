"""Measure ``python -m cxr predict`` on a folder of films, and estimate the time for a million films.

Command::

    python -m benchmarks.throughput
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.films import make_dicom_film, make_film
from benchmarks.server import ROOT, memory_mb
from benchmarks.table import print_rows

WIDTH, HEIGHT = 1300, 1000  # about the size of the original films in the data set


def score_folder(folder: Path, jobs: int) -> tuple[float, float]:
    """Seconds of the whole command, including its start, and its peak memory in MB."""
    command = [
        sys.executable,
        "-m",
        "cxr",
        "predict",
        str(folder),
        "--format",
        "csv",
        "--jobs",
        str(jobs),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start, peak = time.perf_counter(), 0.0
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            peak = max(peak, _peak_or_none(process.pid) or 0.0)
            time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"received exit status {process.returncode} from {' '.join(command)}")
    return time.perf_counter() - start, peak


def measure(
    make: Callable[[int, int, int], bytes], suffix: str, jobs: dict[str, int], films: int, rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Milliseconds of a film and peak memory in MB, float64 (rounds,), by the name of the jobs."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    memory: dict[str, list[float]] = {name: [] for name in jobs}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(films):
            (Path(folder) / f"{number:06}{suffix}").write_bytes(make(WIDTH, HEIGHT, number))
        for _ in range(rounds):
            for name, n in jobs.items():
                seconds, peak = score_folder(Path(folder), n)
                taken[name].append(seconds / films * 1e3)
                memory[name].append(peak)
    return tuple({name: np.array(v) for name, v in values.items()} for values in (taken, memory))


def _peak_or_none(pid: int) -> float | None:
    try:
        return memory_mb(pid, "VmHWM")
    except (OSError, ValueError):  # it has just ended
        return None


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput", description="Films a second through cxr predict."
    )
    parser.add_argument("--films", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    jobs = {f"--jobs {n}": n for n in sorted({1, 2, os.cpu_count() or 1})}
    kinds = (("DICOM, 12 bits, lossless JPEG", make_dicom_film, ".dcm"), ("JPEG", make_film, ".jpeg"))
    for title, make, suffix in kinds:
        per_film, memory = measure(make, suffix, jobs, args.films, args.rounds)
        print_rows(f"a film of a folder, {WIDTH} x {HEIGHT} px {title}", per_film, "--jobs 1", "ms")
        print_rows("memory of that, peak", memory, "--jobs 1", "MB")
    hours = {name: np.array([np.median(values) * 1e6 / 1e3 / 3600]) for name, values in per_film.items()}
    print_rows("a million films, by that figure", hours, "--jobs 1", "hours")


if __name__ == "__main__":
    main()
