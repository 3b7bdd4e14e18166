"""Other boxes of the lungs than the published one, and another pooling, as levers of ablations."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import tensorflow as tf

from cxr.imaging import Box, cut_out
from cxr.lungs import lung_box
from experiments.folds import Fold
from training.masks import masks_beside
from training.model import LungWeights
from training.sources import LabelledImages
from training.views import find_edges

ORIGINAL_SIZES = "original_sizes.csv"  # beside the masks: film, width, height


@contextlib.contextmanager
def with_margin(margin: float) -> Iterator[None]:
    """Cut boxes with another margin, a share of their sides, in training and in use."""
    with mock.patch("cxr.lungs.MARGIN", margin), mock.patch("training.views.MARGIN", margin):
        yield


@contextlib.contextmanager
def with_squares() -> Iterator[None]:
    """Cut squares, as long as the longer side of the box, so that lungs keep the shape of their image."""

    def find_square(mask: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
        edges = find_edges(mask)
        side = tf.maximum(*(high - low for low, high in edges))
        starts = [tf.clip_by_value((low + high - side) / 2.0, 0.0, 1.0 - side) for low, high in edges]
        return [(start, start + side) for start in starts]

    def cut_square(mask: np.ndarray) -> Box:
        x0, y0, x1, y1 = lung_box(mask)
        side = max(x1 - x0, y1 - y0)
        left, top = (np.clip((a + b - side) / 2.0, 0.0, 1.0 - side) for a, b in ((x0, x1), (y0, y1)))
        return float(left), float(top), float(left + side), float(top + side)

    with (
        mock.patch("training.views.find_edges", find_square),
        mock.patch("training.views.lung_box", cut_square),
    ):
        yield


@contextlib.contextmanager
def with_plain_pooling() -> Iterator[None]:
    """Pool over the whole box, with the same weight for all cells."""

    def weigh(layer: LungWeights, mask: tf.Tensor) -> tf.Tensor:
        cells = layer.cells
        return tf.ones_like(mask[:, :cells, :cells]) / cells**2

    with mock.patch.object(LungWeights, "call", weigh):
        yield


UNSQUEEZED = "aspect ratio kept"  # of the original image
BOXES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "no margin": functools.partial(with_margin, 0.0),
    "margin of 6 %": functools.partial(with_margin, 0.06),
    "margin of 24 %": functools.partial(with_margin, 0.24),
    UNSQUEEZED: with_squares,
    "pooled over the whole box": with_plain_pooling,
}


def read_sizes(data: str, masks: str) -> pd.DataFrame:
    """The original ``width`` and ``height`` of each image, by path, px.

    Args:
        data, masks: as ``load_masked`` takes them; the masks' folder has ``ORIGINAL_SIZES``.

    Raises:
        ValueError: if it has none.
    """
    file = Path(masks or masks_beside(data)) / ORIGINAL_SIZES
    if not file.exists():
        raise ValueError(
            f"received {file.parent} without {ORIGINAL_SIZES}; accepted are rows film,width,height"
        )
    return pd.read_csv(file).set_index("film")


def unsqueeze_fold(fold: Fold, sizes: pd.DataFrame) -> Fold:
    """A fold whose images have the aspect ratio of their originals, between black bars.

    Args:
        fold: images and masks, squeezed to squares.
        sizes: of ``read_sizes``.

    Raises:
        ValueError: if the sizes of an image are missing.
    """

    def unsqueeze(layers: np.ndarray, films: LabelledImages) -> np.ndarray:
        listed = sizes.reindex(films.paths)
        if listed.isna().any(axis=None):
            raise ValueError(f"received {ORIGINAL_SIZES} without {listed.index[listed.width.isna()][0]}")
        pairs = zip(layers, listed.itertuples(), strict=True)
        return np.stack([unsqueeze_image(image, row.width / row.height) for image, row in pairs])

    train, inner, held_out = (
        dataclasses.replace(films, images=unsqueeze(films.images, films))
        for films in (fold.train, fold.inner, fold.held_out)
    )
    return dataclasses.replace(
        fold,
        train=train,
        inner=inner,
        held_out=held_out,
        inner_corrupted=unsqueeze(fold.inner_corrupted, inner),
        held_out_corrupted=unsqueeze(fold.held_out_corrupted, held_out),
    )


def unsqueeze_image(layers: np.ndarray, aspect: float) -> np.ndarray:
    """Give uint8 (F, F, C) its aspect ratio, width by height, and fill the square with zeros."""
    side = len(layers)
    width, height = round(side * min(aspect, 1.0)), round(side / max(aspect, 1.0))
    left, top = (side - width) // 2, (side - height) // 2
    square = np.zeros_like(layers)
    for i, layer in enumerate(np.moveaxis(layers, -1, 0)):
        square[top : top + height, left : left + width, i] = cut_out(layer, (height, width))
    return square
