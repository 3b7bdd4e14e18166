"""Other boxes and pooling, as levers of ablations."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import training  # noqa: F401  before tensorflow
from cxr.lungs import lung_box
from experiments.boxes import (
    ORIGINAL_SIZES,
    read_sizes,
    unsqueeze_fold,
    unsqueeze_image,
    with_margin,
    with_plain_pooling,
    with_squares,
)
from experiments.folds import Fold
from tests.conftest import draw_film, draw_lungs
from training.model import LungWeights
from training.sources import LabelledImages
from training.views import find_edges, view_films


@pytest.fixture
def layers():
    """A drawn film and its lungs, uint8 (F, F, 2)."""
    film, mask = draw_film(0, False), np.logical_or(*draw_lungs())
    return np.stack([film, np.where(mask, 255, 0).astype(np.uint8)], axis=-1)


def test_a_wider_margin_leaves_the_lungs_a_smaller_share_of_the_view(layers):
    shares = []
    for margin in (0.0, 0.12, 0.24):
        with with_margin(margin):
            shares.append(view_films(layers[np.newaxis], 64)[..., 1].mean())
            trained = [
                float(edge)
                for pair in find_edges(tf.constant(layers[..., 1], tf.float32))
                for edge in pair
            ]
            used = lung_box(layers[..., 1])
        assert np.allclose(trained, [used[0], used[2], used[1], used[3]], atol=0.02)
    assert shares[0] > shares[1] > shares[2]


def test_a_square_keeps_the_shape_of_the_lungs(layers):
    """The lungs' own box, in px of the view, is as long and as wide as in the image."""

    def measure_shape(mask: np.ndarray) -> float:
        rows, columns = (np.flatnonzero(mask.max(axis=axis) > 127) for axis in (1, 0))
        return (columns[-1] - columns[0] + 1) / (rows[-1] - rows[0] + 1)

    narrow = unsqueeze_image(layers, 0.6)
    shape = measure_shape(narrow[..., 1])
    assert shape == pytest.approx(0.6 * measure_shape(layers[..., 1]), rel=0.05)
    with with_squares():
        assert measure_shape(view_films(narrow[np.newaxis], 96)[0, ..., 1]) == pytest.approx(
            shape, rel=0.06
        )
    assert measure_shape(view_films(narrow[np.newaxis], 96)[0, ..., 1]) > 1.2 * shape


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
def test_an_unsqueezed_image_stands_between_black_bars(layers, aspect):
    layers = np.maximum(layers, 1)
    wide = unsqueeze_image(layers, aspect)
    assert wide.shape == layers.shape
    columns, rows = (np.mean(wide[..., 0].max(axis=axis) > 0) for axis in (0, 1))
    assert columns / rows == pytest.approx(aspect, rel=0.03)
    assert max(columns, rows) == 1.0


def test_plain_pooling_does_not_ask_where_the_lungs_are():
    mask = np.zeros((1, 64, 64, 1), np.float32)
    mask[:, :20, :20] = 255.0
    with with_plain_pooling():
        assert np.allclose(LungWeights(2)(mask), 0.25)
    assert LungWeights(2)(mask).numpy().max() > 0.9


def test_original_sizes_are_needed_for_every_image(layers, tmp_path):
    path = "train/NORMAL/IM-0001-0001.jpeg"
    films = LabelledImages(layers[np.newaxis], np.zeros(1), [path])
    images = films.images
    fold = Fold("one", films, films, images, films, images, np.zeros(1))
    with pytest.raises(ValueError, match=f"without {ORIGINAL_SIZES}"):
        unsqueeze_fold(fold, read_sizes("", str(tmp_path)))
    (tmp_path / ORIGINAL_SIZES).write_text("film,width,height\nanother.jpeg,200,100\n")
    with pytest.raises(ValueError, match=f"without {path}"):
        unsqueeze_fold(fold, read_sizes("", str(tmp_path)))
    (tmp_path / ORIGINAL_SIZES).write_text(f"film,width,height\n{path},200,100\n")
    wide = unsqueeze_fold(fold, read_sizes("", str(tmp_path)))
    expected = unsqueeze_image(layers, 2.0)[np.newaxis]
    for made in (wide.train.images, wide.inner.images, wide.inner_corrupted, wide.held_out_corrupted):
        assert np.array_equal(made, expected)
    assert dataclasses.replace(wide.train, images=images).paths == films.paths
