"""What a run is made of: batches, loss, schedules, the search for a learning rate, averaged weights."""

import dataclasses
import re

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from training.averaging import WeightAverage, write_weights
from training.batches import training_batches
from training.learning_rate import find_learning_rate
from training.optimization import compile_model, loss_of_both

tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")


@pytest.fixture
def films(tiny_films):
    return tiny_films.to_dataset()


def test_batches_are_balanced_and_differ_by_epoch(config, films):
    first, again, second = (
        list(training_batches(films, config, epoch).take(60).as_numpy_iterator()) for epoch in (0, 0, 1)
    )
    images, labels = first[0]
    assert images.shape == (4, 32, 32, 2)
    assert labels.shape == (4, 2)
    targets = np.concatenate([labels for _, labels in first])
    undecided = (targets == (0.5, 0.25)).all(axis=1)
    assert undecided.mean() == pytest.approx(config.surroundings.erased_share, abs=0.1)
    assert targets[~undecided, 0].mean() == pytest.approx(0.5, abs=0.15)
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    assert not np.array_equal(first[0][0], second[0][0])


def test_mixup_mixes_images_and_targets_together(config, films):
    mixed = dataclasses.replace(config, mixup=0.4)
    batches = list(training_batches(films, mixed, 0).take(20).as_numpy_iterator())
    targets = np.concatenate([t for _, t in batches])
    assert ((targets > 0.01) & (targets < 0.99)).mean() > 0.1
    assert (targets[:, 1] <= targets[:, 0] + 1e-6).all()


def test_loss_by_hand():
    from scipy.special import logit

    targets = np.array([[0, 0], [1, 0], [1, 1]], np.float32)
    chances = np.array([[0.2, 0.9], [0.6, 0.3], [0.9, 0.8]], np.float32)
    losses = loss_of_both(tf.constant(targets), tf.constant(logit(chances)), 0.0, 0.5).numpy()
    expected = [-np.log(0.8), -np.log(0.6) - 0.5 * np.log(0.7), -np.log(0.9) - 0.5 * np.log(0.8)]
    assert losses == pytest.approx(expected, rel=1e-4)
    smooth = loss_of_both(tf.constant(targets), tf.constant(logit(chances)), 0.1, 0.0).numpy()
    assert smooth[0] == pytest.approx(-0.95 * np.log(0.8) - 0.05 * np.log(0.2), rel=1e-4)


def test_schedules_rise_and_fall(config):
    peaks = {}
    for one_cycle in (False, True):
        model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))])
        compile_model(model, dataclasses.replace(config, one_cycle=one_cycle), 1e-3, 100)
        rates = [float(model.optimizer._learning_rate(step)) for step in range(100)]
        assert max(rates) == pytest.approx(1e-3, rel=0.02)
        assert rates[-1] < 0.05e-3
        peaks[one_cycle] = int(np.argmax(rates))
    assert peaks[False] == pytest.approx(10, abs=1)
    assert peaks[True] == pytest.approx(30, abs=1)


def test_learning_rates_are_tried(config, tmp_path):
    text = find_learning_rate(config, tmp_path)
    steepest, lowest = (float(value) for value in re.findall(r"at (\S+e-\d+)", text))
    assert 1e-6 <= steepest <= 1e-1
    assert 1e-6 <= lowest <= 1e-1
    assert 1 < int(re.search(r"(\d+) of 80 steps", text)[1]) <= 80
    assert (tmp_path / "learning_rates.png").stat().st_size > 1000


def test_an_average_follows_the_weights_from_the_first_step_on():
    model = tf_keras.Sequential([tf_keras.layers.Dense(1, use_bias=False, input_shape=(1,))])
    model.set_weights([np.array([[0.0]])])
    slow, last = WeightAverage(model, steps=100), WeightAverage(model, steps=1)
    for average in (slow, last):
        average.set_model(model)
    model.set_weights([np.array([[1.0]])])
    for batch in range(11):
        for average in (slow, last):
            average.on_train_batch_end(batch)
    assert slow.weights()[0].item() == pytest.approx(1 - 0.9**2)
    assert last.weights()[0].item() == 1.0


def test_the_statistics_of_trained_norms_are_averaged_with_the_weights():
    norm = tf_keras.layers.BatchNormalization(input_shape=(3,))
    frozen = tf_keras.layers.BatchNormalization(trainable=False)
    model = tf_keras.Sequential([norm, frozen])
    average = WeightAverage(model, steps=20)
    average.set_model(model)
    assert len(average.weights()) == 4  # none of the frozen norm
    norm.set_weights([np.full(3, value, np.float32) for value in (3.0, 2.0, 4.0, 5.0)])
    average.on_train_batch_end(0)
    write_weights(model, average.weights())
    for value, expected in zip(norm.get_weights(), (2.0, 1.0, 2.0, 3.0), strict=True):
        assert value == pytest.approx(expected)
    assert [value[0] for value in frozen.get_weights()] == [1.0, 0.0, 0.0, 1.0]
