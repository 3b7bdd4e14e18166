"""Measure where the time of one image goes, in the page's own stages and beside the decoder alone.

Command::

    python -m benchmarks.stages
"""

from __future__ import annotations

import io
import time

import numpy as np
from PIL import Image

from benchmarks.end_to_end import HEIGHT, WIDTH
from benchmarks.films import make_film
from benchmarks.table import print_rows
from cxr import Classifier, read_image
from streamlit_app.viewer import make_drawing, shrink

ROUNDS = 40
ALL = "all stages"


def time_stages(data: bytes, classifier: Classifier) -> dict[str, float]:
    """Milliseconds of each stage of one film."""
    start = time.perf_counter()
    pixels = read_image(io.BytesIO(data))
    decoded = time.perf_counter()
    prediction = classifier.predict(pixels)
    drawing = make_drawing(pixels, prediction, classifier.card)
    stages = {"decode, in a supervised process": (decoded - start) * 1e3}
    stages |= prediction.latency_ms | {"draw": drawing.draw_ms}
    return stages | {ALL: sum(stages.values())}


def time_parts(data: bytes) -> dict[str, float]:
    """Milliseconds of what cannot be left out: the decoder alone, and one resize for the screen."""
    start = time.perf_counter()
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    decoded = time.perf_counter()
    shrink(pixels)
    end = time.perf_counter()
    return {"of decode: the decoder": (decoded - start) * 1e3, "of draw: resize": (end - decoded) * 1e3}


def main() -> None:
    classifier = Classifier.load("int8")
    films = [make_film(WIDTH, HEIGHT, number) for number in range(4)]
    rounds = [time_stages(films[i % 4], classifier) | time_parts(films[i % 4]) for i in range(4 + ROUNDS)]
    samples = {name: np.array([taken[name] for taken in rounds[4:]]) for name in rounds[0]}
    print_rows(f"a film of {WIDTH} x {HEIGHT} px, by stage", samples, ALL, "ms")


if __name__ == "__main__":
    main()
