"""Measure both networks of one prediction against version 1.0.0, which had one.

Command, in a clone with its history::

    python -m benchmarks.versions

All are int8 and take turns in one process. Version 1.0.0 judged the whole film at the same input size.
"""

from __future__ import annotations

import subprocess

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.inference import BURST, Call, measure
from benchmarks.server import ROOT
from benchmarks.table import print_rows
from cxr.classifier import INPUT
from cxr.model_file import SIGNATURE

FIRST = "ab997b2:models/pneumonia_int8.tflite"  # the commit of version 1.0.0
ROUNDS = 40


def load(models: list[bytes], num_threads: int) -> Call:
    """A function that runs these models one after the other, each on noise."""
    runners = [
        Interpreter(model_content=model, num_threads=num_threads).get_signature_runner(SIGNATURE)
        for model in models
    ]
    noise = np.random.default_rng(0)
    films = [
        noise.integers(0, 256, runner.get_input_details()[INPUT]["shape"], np.uint8) for runner in runners
    ]

    def run() -> None:
        for runner, film in zip(runners, films, strict=True):
            runner(**{INPUT: film})

    return run


def read_first() -> bytes:
    """The int8 model of version 1.0.0.

    Raises:
        SystemExit: if this is no clone with its history.
    """
    result = subprocess.run(["git", "show", FIRST], cwd=ROOT, capture_output=True, check=False)
    if result.returncode:
        raise SystemExit(
            f"received a folder without {FIRST} in git; accepted is a clone with its history"
        )
    return result.stdout


def main() -> None:
    first = read_first()
    shipped = [(ROOT / "models" / f"{name}_int8.tflite").read_bytes() for name in ("lungs", "pneumonia")]
    for threads in (1, 2):
        calls = {"version 1.0.0": load([first], threads), "shipped": load(shipped, threads)}
        title = f"all int8 networks of a prediction, {threads} thread(s), {ROUNDS * BURST} runs"
        print_rows(title, measure(calls, ROUNDS), "version 1.0.0", "ms")


if __name__ == "__main__":
    main()
