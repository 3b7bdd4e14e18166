"""Make films of the size that hospitals use from the samples."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from benchmarks.server import ROOT

SAMPLES = sorted((ROOT / "streamlit_app" / "samples").glob("*.png"))
GRAIN = 6.0  # gray levels, so that a JPEG has as many bytes as that of a real film


def make_film(width: int, height: int, number: int = 0, grain: float = GRAIN) -> bytes:
    """Make a JPEG of a sample, enlarged to a size in px; ``number`` selects the sample and the grain."""
    sample = Image.open(SAMPLES[number % len(SAMPLES)]).convert("L")
    enlarged = np.asarray(sample.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    noise = np.random.default_rng(number).normal(0.0, grain, enlarged.shape)
    pixels = np.clip(np.rint(enlarged + noise), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()
