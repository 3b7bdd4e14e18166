"""Measure how much longer a film takes to decode in a supervised process than in this one.

Command::

    python -m benchmarks.cage
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks.films import make_film
from benchmarks.table import print_rows
from cxr.decoding import DecoderPool
from cxr.imaging import decode_film

WIDTH, HEIGHT = 1600, 1250
REPEATS = 200


def main() -> None:
    film = make_film(WIDTH, HEIGHT)
    pool = DecoderPool(1)
    ways = {"in this process": decode_film, "in a supervised process": pool.decode}
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(REPEATS + 10):
        for name, decode in ways.items():  # in turns, so that drift of the machine affects both
            start = time.perf_counter()
            decode(film)
            if repeat >= 10:
                samples[name].append((time.perf_counter() - start) * 1e3)
    pool.close()
    print_rows(
        f"decode a JPEG of {WIDTH} x {HEIGHT} px",
        {name: np.array(values) for name, values in samples.items()},
        "in this process",
        "ms",
    )


if __name__ == "__main__":
    main()
