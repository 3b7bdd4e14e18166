import cv2
import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from cxr import preprocess
from tests.conftest import STILL
from training.augmentation import Augmentation, augment

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def source(film):
    return preprocess(film, 112)


def draw(source, seed, **options):
    return augment(source, 64, tf.constant([seed, 0]), Augmentation(**options)).numpy()


def test_shape_range_and_repeatability(source):
    image = draw(source, 1)
    assert image.shape == (64, 64, 1)
    assert image.dtype == np.float32
    assert 0 <= image.min() < image.max() <= 255
    assert np.array_equal(image, draw(source, 1))
    assert not np.array_equal(image, draw(source, 2))


def sharpness(image):
    return np.abs(np.diff(image[..., 0], axis=0)).mean() / (image.std() + 1e-6)


def blackness(image):
    return -np.percentile(image, 5)


def separate(first, second, cue):
    """AUROC of a cue between two lists of images."""
    return np.mean(np.subtract.outer([cue(i) for i in first], [cue(i) for i in second]) > 0)


def test_sharpness_and_gray_levels_give_little_away(source):
    """Two classes of one film, which either cue alone separates with an AUROC of 1 (.81 and .75 in the
    training split), can hardly be separated by it when style alone is drawn."""
    rng = np.random.default_rng(0)
    normal, sick = [], []
    for _ in range(60):
        film = np.clip(source + rng.normal(0, 2, source.shape), 0, 255)
        softer = cv2.GaussianBlur(film[..., 0], (0, 0), 0.6)[..., np.newaxis]
        normal.append(np.rint(film).astype(np.uint8))
        sick.append(np.rint(softer * 250 / 255 + 5).astype(np.uint8))

    def draw_both(**options):
        seeds = iter(range(120))
        return [[draw(film, next(seeds), **options) for film in films] for films in (normal, sick)]

    still, drawn = draw_both(**STILL), draw_both(**STILL | {"style": 1.0})
    for cue in (sharpness, blackness):
        assert separate(*still, cue) > 0.99
        assert separate(*drawn, cue) == pytest.approx(0.5, abs=0.3)


def test_gains_of_bands_change_detail_and_keep_what_is_smooth(source):
    """Sharpness varies by more than a factor of two, and shade at the scale of the lungs stays."""
    still = draw(source, 0, **STILL)
    gained = [draw(source, seed, **STILL | {"band_gains": 1.0}) for seed in range(30)]
    drawn = [sharpness(image) / sharpness(still) for image in gained]
    assert min(drawn) < 0.7
    assert max(drawn) > 1.4

    def shade(image):  # a mirror image has the same mean of both halves
        coarse = cv2.resize(image[..., 0], (4, 4), interpolation=cv2.INTER_AREA)
        return coarse + coarse[:, ::-1]

    assert max(np.abs(shade(image) - shade(still)).mean() for image in gained) < 12


def test_framing_varies_but_whole_frames_are_kept(source):
    marked = np.zeros_like(source)
    marked[:8], marked[-8:], marked[:, :8], marked[:, -8:] = 255, 255, 255, 255
    edges = []
    for seed in range(60):
        image = draw(marked, seed)[..., 0]
        edges.append(
            sum(side.mean() > image.mean() for side in (image[0], image[-1], image[:, 0], image[:, -1]))
        )
    assert 0.2 < np.mean(np.array(edges) == 4) < 0.7


def test_works_inside_tf_data(source):
    every = Augmentation(convolution_share=0.5, border_share=0.5, copy_share=0.5)
    films = tf.data.Dataset.from_tensors(source).repeat(4).enumerate()
    images = films.map(lambda i, film: augment(film, 64, tf.stack([tf.cast(i, tf.int32), 7]), every))
    shapes = {image.shape for image in images.as_numpy_iterator()}
    assert shapes == {(64, 64, 1)}


def test_nothing_is_changed_when_nothing_is_drawn(source):
    """But for a mirror image."""
    image = draw(source, 1, **STILL)
    plain = tf.image.resize(source, (64, 64), antialias=True).numpy()
    assert min(np.abs(image - plain).max(), np.abs(image - plain[:, ::-1]).max()) < 0.01


def test_a_covered_border_is_one_gray_and_the_middle_stays(source):
    before = draw(source, 3, **STILL)
    after = draw(source, 3, **STILL | {"border_share": 1.0})
    changed = before != after
    assert 0.05 < changed.mean() < 0.65
    assert np.ptp(after[changed]) < 0.01
    assert not changed[16:48, 16:48].any()


def test_a_copy_loses_detail_and_keeps_the_film(source):
    before = draw(source, 3, **STILL)
    after = draw(source, 3, **STILL | {"copy_share": 1.0})
    assert 0.5 < np.abs(before - after).mean() < 12
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.95
