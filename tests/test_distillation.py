"""What a smaller network learns from the whole one."""

import dataclasses

import numpy as np
import pytest
from scipy.special import expit

import training  # noqa: F401  before tensorflow
from export import shrink as shrinking
from export.importance import total_cost
from export.shrink import feature_loss, fine_tune, remove_channels
from export.structure import count_channels
from training.batches import training_batches
from training.config import TrainConfig
from training.model import build_model
from training.views import view_films

tf_keras = pytest.importorskip("tf_keras")

CONFIG = TrainConfig(weights="none", image_size=64, film_size=64, batch_size=4, epochs=1)


def test_a_smaller_network_learns_what_the_whole_one_says(small_backbone, tiny_films, monkeypatch):
    """Although the labels say something else: the whole network calls all images pneumonia."""
    monkeypatch.setattr(shrinking, "PROBE_BATCHES", 2)
    model = build_model(small_backbone, image_size=64)
    views = view_films(tiny_films.images[:12], 64).astype(np.float32)
    head = model.get_layer("logit")
    head.set_weights([head.kernel.numpy(), np.array([2.0])])

    def distance(network):
        answers = (expit(m.predict(views, verbose=0)[:, 0]) for m in (network, model))
        return float(np.mean(np.abs(np.subtract(*answers))))

    smaller = remove_channels(model, CONFIG, tiny_films, 0.5 * total_cost(model))
    smaller.get_layer("logit").set_weights([smaller.get_layer("logit").kernel.numpy(), np.array([0.0])])
    before = smaller.get_weights()
    config = dataclasses.replace(CONFIG, average_steps=1)  # there are 96 steps in all
    learned = fine_tune(
        smaller, config, tiny_films, [model], epochs=12, learning_rate=1e-2, feature_weight=0.1
    )
    assert count_channels(learned) == count_channels(smaller)
    assert distance(learned) < 0.75 * distance(smaller)  # the labels alone would leave it as it is
    taught, *others = (
        tf_keras.Model(m.input, m.get_layer("pooled").output).predict(views, verbose=0)
        for m in (model, smaller, learned)
    )
    far, near = (feature_loss(taught, features).numpy().mean() for features in others)
    assert near < 0.75 * far
    for old, new in zip(before, smaller.get_weights(), strict=True):  # it was not changed itself
        np.testing.assert_array_equal(old, new)


def test_no_answer_is_learned_for_images_without_lungs(small_backbone, tiny_films):
    """The teacher calls them pneumonia; their own target is one half."""
    teacher = build_model(small_backbone, image_size=64)
    head = teacher.get_layer("logit")
    head.set_weights([head.kernel.numpy(), np.array([3.0])])
    student = build_model(small_backbone, image_size=64)
    surroundings = dataclasses.replace(CONFIG.surroundings, erased_share=1.0)
    config = dataclasses.replace(CONFIG, surroundings=surroundings, average_steps=1)
    learned = fine_tune(student, config, tiny_films, [teacher], epochs=6, learning_rate=1e-2)
    views, _ = next(iter(training_batches(tiny_films.to_dataset(), config, epoch=0)))
    assert expit(teacher.predict(views, verbose=0)[:, 0]).mean() > 0.9
    assert abs(expit(learned.predict(views, verbose=0)[:, 0]).mean() - 0.5) < 0.1


def test_no_features_are_learned_of_images_without_lungs(small_backbone, tiny_films):
    """Where all lungs are erased, the weight of the teacher's features makes no difference."""
    teacher, student = (build_model(small_backbone, image_size=64) for _ in range(2))
    surroundings = dataclasses.replace(CONFIG.surroundings, erased_share=1.0)
    config = dataclasses.replace(CONFIG, surroundings=surroundings, average_steps=1)
    first, second = (
        fine_tune(student, config, tiny_films, [teacher], 1, 1e-2, feature_weight=weight)
        for weight in (0.0, 5.0)
    )
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_fine_tune_is_repeated_exactly(small_backbone, tiny_films):
    """Also its dropout and its weights of cells, whatever was drawn before: a stopped export continues as
    if it had not been."""
    model = build_model(small_backbone, image_size=64, dropout=0.5, evenness=0.8)
    first, second = (
        fine_tune(model, CONFIG, tiny_films, [model], epochs=1, learning_rate=1e-2) for _ in range(2)
    )
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_loss_of_features_is_a_share_of_their_variance():
    rng = np.random.default_rng(0)
    taught = rng.normal(3.0, 5.0, (64, 20)).astype(np.float32)
    assert feature_loss(taught, taught).shape == (64,)
    assert feature_loss(taught, taught).numpy().max() == 0
    mean = np.broadcast_to(taught.mean(axis=0), taught.shape)
    assert feature_loss(taught, mean).numpy().mean() == pytest.approx(1.0, rel=1e-4)
