"""What the classifier sees, what training changes around it, and the altered images of the tests."""

import dataclasses

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from cxr.lungs import lung_box
from tests.conftest import STILL, draw_film, draw_lungs
from training.alterations import (
    alter_background,
    alter_lungs,
    fill_blurred,
    fill_gray,
    fill_noisy,
    soften,
    transplant,
    transplant_all,
)
from training.augmentation import Augmentation
from training.sources import LabelledImages
from training.views import Surroundings, augment_view, view_films

tf = pytest.importorskip("tensorflow")

SIZE = 96
UNCHANGED = Augmentation(**STILL)
NOTHING = Surroundings(swapped_share=0.0, background_share=0.0, erased_share=0.0)


def draw_layers(seed, pneumonia=False, shift=0):
    """A cartoon and its mask, moved to the right by ``shift`` px."""
    layers = np.stack([draw_film(seed, pneumonia), 255 * np.logical_or(*draw_lungs())], axis=-1)
    return np.roll(layers.astype(np.uint8), shift, axis=1)


def augment(film, other=None, seed=0, settings=UNCHANGED, **surroundings):
    changes = dataclasses.replace(NOTHING, **surroundings)
    other = draw_layers(99) if other is None else other
    view, is_erased = augment_view(film, other, SIZE, tf.constant([seed, 0]), settings, changes)
    return view.numpy(), bool(is_erased)


def test_a_view_is_the_box_of_the_lungs_wherever_they_are():
    left, right = view_films(np.stack([draw_layers(0), draw_layers(0, shift=9)]), SIZE)
    assert left.shape == (SIZE, SIZE, 2)
    assert np.mean(np.abs(left[..., 1].astype(int) - right[..., 1]) > 64) < 0.02
    lungs = left[..., 1] > 127
    assert 0.35 < lungs.mean() < 0.6  # the frame has .28
    assert left[..., 0][lungs].mean() < left[..., 0][~lungs].mean() - 100
    x0, y0, x1, y1 = lung_box(draw_layers(0)[..., 1])
    assert x0 == pytest.approx(0.16 - 0.12 * 0.68, abs=0.04)
    assert y1 == pytest.approx(0.82 + 0.12 * 0.64, abs=0.04)
    assert (x0 + x1, y0 + y1) == pytest.approx((1, 1), abs=0.03)


def test_without_changes_training_sees_what_the_runtime_sees():
    layers = draw_layers(3)
    view, is_erased = augment(layers)
    expected = view_films(layers[np.newaxis], SIZE)[0].astype(float)
    differences = [np.abs(seen - expected).mean() for seen in (view, view[:, ::-1])]
    assert min(differences) < 12  # the edges of the box differ by a pixel or two
    assert not is_erased


def test_views_repeat_and_differ():
    first, again, other = (augment(draw_layers(1), seed=s, settings=Augmentation())[0] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 1
    assert 0 <= first.min() < first.max() <= 255


def test_a_swapped_frame_changes_all_but_the_lungs():
    film, other = draw_layers(1), draw_layers(2)
    other[:, 61:67, 0] = 0  # a black bar between the lungs
    kept, _ = augment(film, other)
    swapped, _ = augment(film, other, swapped_share=1.0)
    lungs = kept[..., 1] > 250
    assert np.array_equal(kept[..., 1], swapped[..., 1])
    bar = slice(SIZE // 2 - 2, SIZE // 2 + 2)
    assert swapped[20:70, bar, 0].mean() < kept[20:70, bar, 0].mean() - 60
    assert np.abs(swapped - kept)[..., 0][lungs].mean() < 25


def test_changed_surroundings_leave_the_lungs_and_erased_lungs_are_gone():
    film = draw_layers(1, pneumonia=True)
    lungs_moved, around_moved = [], []
    for seed in range(24):
        kept, _ = augment(film, seed=seed)
        changed, is_erased = augment(film, seed=seed, background_share=1.0)
        assert not is_erased
        lungs = kept[..., 1] > 250
        flat = np.corrcoef(kept[..., 0][lungs], changed[..., 0][lungs])[0, 1]
        lungs_moved.append(flat)
        around = kept[..., 1] < 5
        around_moved.append(np.abs(kept - changed)[..., 0][around].mean())
        erased, is_erased = augment(film, seed=seed, erased_share=1.0)
        assert is_erased
        assert np.array_equal(erased[..., 1], kept[..., 1])
        assert np.corrcoef(kept[..., 0][lungs], erased[..., 0][lungs])[0, 1] < 0.95
    assert np.median(lungs_moved) > 0.95
    assert np.median(around_moved) > 10


@pytest.mark.parametrize("fill", [fill_gray, fill_blurred, fill_noisy])
def test_alterations_meet_at_the_edge_of_the_lungs(fill):
    image, mask = np.moveaxis(draw_layers(1), -1, 0)
    lungs, around = mask > 0, soften(mask) < 1e-3
    without_lungs, without_frame = (alter(image, mask, fill) for alter in (alter_lungs, alter_background))
    assert np.array_equal(without_lungs[around], image[around])
    assert np.abs(without_frame.astype(int) - image)[lungs].mean() < 2
    assert np.abs(without_lungs.astype(int) - image)[lungs].mean() > 20
    assert np.abs(without_frame.astype(int) - image)[around].mean() > 5


def test_erased_lungs_leave_no_outline():
    image, mask = np.moveaxis(draw_layers(1), -1, 0)
    erased = alter_lungs(image, mask, fill_gray).astype(float)
    lungs = mask > 0
    assert erased[lungs].std() < 3
    assert soften(mask)[lungs].min() > 0.85


def test_transplanted_lungs_lie_in_the_box_of_the_other_image():
    film, frame = draw_layers(1), draw_layers(2, shift=9)
    film[..., 0] //= 2
    moved = transplant(film, frame)
    assert lung_box(moved[..., 1]) == pytest.approx(lung_box(frame[..., 1]), abs=0.02)
    lungs = frame[..., 1] > 0
    inner = lungs & (moved[..., 1] == 255)
    assert moved[..., 0][inner].mean() == pytest.approx(film[..., 0][film[..., 1] > 0].mean(), abs=3)
    around = soften(moved[..., 1]) < 1e-3
    assert np.array_equal(moved[..., 0][around], frame[..., 0][around])


def test_frames_come_from_the_other_class():
    layers = np.stack([draw_layers(seed) for seed in range(4)])
    for i, gray in enumerate((10, 20, 200, 210)):
        layers[i, :6, :, 0] = gray  # the class can be seen in the frame
    films = LabelledImages(layers, np.array([0.0, 0, 1, 1]), [f"{i}" for i in range(4)])
    moved = transplant_all(films)
    assert (moved[:2, :3, :, 0] >= 199).all()
    assert (moved[2:, :3, :, 0] <= 21).all()
    assert np.array_equal(moved, transplant_all(films))
