"""Small synthetic films, and the real data set where ``CXR_DATA`` names it."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "streamlit_app" / "samples"


def draw_film(seed: int, pneumonia: bool, size: int = 128) -> np.ndarray:
    """A cartoon of a film, uint8 (size, size): two dark lungs, one filled where ``pneumonia``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    film = 170 + 10 * rng.standard_normal((size, size))
    for center in (0.3, 0.7):
        lung = ((x - center) / 0.14) ** 2 + ((y - 0.5) / 0.32) ** 2 < 1
        filled = pneumonia and (center > 0.5) == bool(seed % 2)
        film[lung] -= 30 if filled else 110
    return np.clip(film, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def film() -> np.ndarray:
    return draw_film(seed=0, pneumonia=True)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A data set of 56 cartoon films in the official layout and naming; patients have two films."""
    root = tmp_path_factory.mktemp("data") / "chest_xray"
    for split, first, count in (("train", 0, 40), ("val", 40, 4), ("test", 60, 12)):
        for label in ("NORMAL", "PNEUMONIA"):
            (root / split / label).mkdir(parents=True)
        for i in range(first, first + count // 2):
            patient, image = divmod(i, 2)
            cause = "bacteria" if patient % 2 else "virus"
            names = {
                f"NORMAL/IM-{patient:04d}-{image:04d}.jpeg": False,
                f"PNEUMONIA/person{patient}_{cause}_{i}.jpeg": True,
            }
            for name, pneumonia in names.items():
                pixels = draw_film(1000 * pneumonia + i, pneumonia)
                Image.fromarray(pixels).save(root / split / name, quality=95)
    return root


@pytest.fixture(scope="session")
def real_data() -> Path:
    if "CXR_DATA" not in os.environ:
        pytest.skip("CXR_DATA does not name the real data set")
    return Path(os.environ["CXR_DATA"]).resolve()
