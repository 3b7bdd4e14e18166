"""Lung masks of the data set, as people drew them.

A mask is a PNG of one bit under the path of its image, ``<folder>/<label>/<name>.png``, where ``folder``
is the data set's own split. They come from the public annotations of v7labs/covid-19-xray-dataset (CC BY
4.0), whose images include those of Kermany et al.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cxr.imaging import cut_out
from cxr.lungs import LungFinder, upsample
from training.sources import LabelledImages, load_films

MISSING = (
    "accepted is a folder with one PNG for each image, such as train/NORMAL/IM-0115-0001.png, which "
    "`python -m training.dataset lungs` makes from V7's public annotations"
)


def masks_beside(data: str | Path) -> Path:
    """The folder of masks that belongs to a data set: ``lung_masks`` beside it."""
    return Path(data).resolve().parent / "lung_masks"


def find_mask(masks: Path, path: str) -> Path:
    """Where the mask of an image lies, which may be missing; ``path`` is that of ``ImageName``."""
    return (masks / path).with_suffix(".png")


def load_masks(masks: str | Path, paths: list[str], size: int) -> np.ndarray:
    """The masks of images, as uint8 (N, size, size, 1) of 0..255, the share of lung in each pixel.

    Raises:
        ValueError: if a mask is missing.
    """
    masks = Path(masks)
    loaded = np.empty((len(paths), size, size, 1), np.uint8)
    for i, path in enumerate(paths):
        file = find_mask(masks, path)
        if not file.exists():
            raise ValueError(f"received {masks}, which lacks {file.relative_to(masks)}; {MISSING}")
        with Image.open(file) as image:
            resized = image.convert("L").resize((size, size), Image.Resampling.BILINEAR)
        loaded[i, ..., 0] = np.asarray(resized)
    return loaded


def find_layers(finder: LungFinder, pixels: np.ndarray, size: int) -> np.ndarray:
    """An image, uint8 (H, W), with the mask that a model finds, as uint8 (size, size, 2)."""
    mask = np.rint(255.0 * upsample(finder.find(pixels).mask, (size, size))).astype(np.uint8)
    return np.stack([cut_out(pixels, (size, size)), mask], axis=-1)


def with_masks(films: LabelledImages, masks: str | Path) -> LabelledImages:
    """The images that have a mask. A few of the data set's have none.

    Raises:
        ValueError: if less than nine tenths have one.
    """
    masks = Path(masks)
    has_mask = np.array([find_mask(masks, path).exists() for path in films.paths])
    if has_mask.mean() < 0.9:
        raise ValueError(
            f"received the masks {masks}, which lack {np.sum(~has_mask)} of {len(films.paths)} images; "
            f"{MISSING}"
        )
    return films.select(has_mask)


def load_masked(data: str | Path, masks: str | Path, split: str, size: int) -> LabelledImages:
    """A split with its masks, as images uint8 (N, size, size, 2).

    Args:
        data, split, size: as ``load_split`` takes them; errors are the same.
        masks: folder of masks; ``masks_beside`` the data if it is empty.

    Raises:
        ValueError: as ``with_masks``.
    """
    masks = masks or masks_beside(data)
    films = with_masks(load_films(data, split, size), masks)
    layers = np.concatenate([films.images, load_masks(masks, films.paths, size)], axis=-1)
    return LabelledImages(layers, films.labels, films.paths)
