"""Verdicts of a shipped model on synthetic images of full resolution.

Command::

    python -m experiments.resolution --data data/chest_xray
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np

from cxr import Classifier, read_image
from experiments.options import new_parser, run_on_model
from training.names import list_labelled

ENLARGED_PX = (2400, 2000)  # width and height
GRAIN = 8.0  # standard deviation, gray levels
RESOLUTION_FILMS = 200


def evaluate_resolution(name: str, folder: Path, split: str) -> str:
    """Compare the verdicts on images enlarged by ``enlarge`` with those on the images themselves.

    Args:
        name: as ``Classifier.load`` takes it.
        folder, split: as ``list_labelled`` takes them; ``RESOLUTION_FILMS`` are drawn.
    """
    classifier = Classifier.load(name)
    films = list_labelled(folder, split)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(films))[:RESOLUTION_FILMS]
    agree, moved = [], []
    for index in chosen:
        pixels = read_image(films[index][0])
        small, large = (
            classifier.predict(p) for p in (pixels, read_image(io.BytesIO(enlarge(pixels, int(index)))))
        )
        agree.append(small.label == large.label)
        moved.append(abs(small.probability - large.probability))
    return (
        f"{classifier.card.name} on {len(chosen)} films of {split} enlarged to {ENLARGED_PX[0]} x "
        f"{ENLARGED_PX[1]} px: {np.mean(agree):.1%} keep their label; the probability moves by "
        f"{np.median(moved):.4f} in the median, {np.percentile(moved, 95):.4f} in the 95th percentile"
    )


def enlarge(pixels: np.ndarray, seed: int) -> bytes:
    """A synthetic original of a small image: a JPEG of ``ENLARGED_PX`` with grain.

    Args:
        pixels: uint8 (H, W).
        seed: seed of the grain.
    """
    large = cv2.resize(pixels, ENLARGED_PX, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    grain = np.random.default_rng(seed).standard_normal(large.shape, np.float32) * GRAIN
    noisy = np.clip(np.rint(large + grain), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def main() -> None:
    run_on_model(
        new_parser("experiments.resolution", __doc__),
        lambda args: evaluate_resolution(args.model, args.data, args.split),
    )


if __name__ == "__main__":
    main()
