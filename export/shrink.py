"""Structured pruning: remove channels in rounds, and after each round learn from the whole network.

Zeros in kernels make no network faster; removed channels do. Which channels go is measured on augmented
training images. After each round the smaller network is fine-tuned on the run's own batches, where most
of its target is what the whole network says of the same image (Hinton et al. 2015; Beyer et al. 2022).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from export.importance import channel_costs, choose_channels, norm_scales, observe, total_cost
from export.structure import keep_channels, load_network, pool_inside, save_network
from training.averaging import WeightAverage, write_weights
from training.batches import UNDECIDED, count_steps, training_batches
from training.config import TrainConfig
from training.flags import setting, to_flat
from training.model import POOLED_LAYER, WEIGHTS_LAYER, LungWeights, WeightedPooling, set_trainable
from training.optimization import build_loss, compile_model
from training.run_folder import check_run, write_config
from training.sources import LabelledImages

ROUNDS = (0.75, 0.6, 0.5, 0.4, 0.3, 0.25)  # the shares at which a network is fine-tuned on its way down
PROBE_BATCHES = 16  # batches that importance is measured on
PROBE_EPOCH = 400  # the epochs from here on are none that a run has drawn
TEACHER_SHARE = 0.7  # of the target; the rest is the label
CRITERIA = ("taylor", "norm")


@dataclasses.dataclass(frozen=True)
class ShrinkConfig:
    """How a network is made smaller. The defaults are those of the published export."""

    round_epochs: int = setting(1, "epochs of fine-tuning after each round of removing channels")
    round_learning_rate: float = setting(3e-4, "peak learning rate of that")
    criterion: str = setting("taylor", "importance of a channel: taylor, or norm for BatchNorm's scale")


def rounds_folder(run: Path, settings: ShrinkConfig) -> Path:
    """Where the networks of a run's rounds are saved."""
    return run / f"rounds_{settings.criterion}"


def shrink(
    model: tf_keras.Model,
    config: TrainConfig,
    films: LabelledImages,
    settings: ShrinkConfig,
    teachers: Sequence[tf_keras.Model],
    folder: Path,
) -> Iterator[tuple[float, tf_keras.Model]]:
    """Remove channels round after round. A round that ``folder`` has from before is not repeated.

    Args:
        model: a trained model of ``build_model``; it is not changed.
        config: of the run that trained it; gives the batches.
        films: the training images and masks at ``config.film_size``.
        settings: of the rounds.
        teachers: the networks whose mean answer is learned.
        folder: where each round's network is saved.

    Yields:
        Each of ``ROUNDS``, the share of the time of all channels that is left, and its network.

    Raises:
        ValueError: if the network has no channels that can be removed, the criterion is unknown, or the
            rounds in ``folder`` were made with other settings or teachers.
    """
    if settings.criterion not in CRITERIA:
        raise ValueError(f"received criterion {settings.criterion!r}; accepted are {', '.join(CRITERIA)}")
    whole = total_cost(model)
    origin = to_flat(settings) | {"teachers_sha256": _digest(teachers)}
    check_run(folder, origin, resume=True)
    write_config(folder, origin)
    for number, share in enumerate(ROUNDS):
        path = folder / f"keep_{share:.2f}.keras"
        if path.exists():
            model = load_network(path)
        else:
            model = remove_channels(model, config, films, share * whole, settings.criterion)
            model = fine_tune(
                model,
                config,
                films,
                teachers,
                settings.round_epochs,
                settings.round_learning_rate,
                number,
            )
            save_network(model, path)
        yield share, model


def _digest(networks: Sequence[tf_keras.Model]) -> str:
    """sha256 of the weights of all networks."""
    checksum = hashlib.sha256()
    for weights in (network.get_weights() for network in networks):
        for value in weights:
            checksum.update(value.tobytes())
    return checksum.hexdigest()


def remove_channels(
    model: tf_keras.Model,
    config: TrainConfig,
    films: LabelledImages,
    budget: float,
    criterion: str = CRITERIA[0],
) -> tf_keras.Model:
    """A new network whose channels cost no more than a budget, without fine-tuning.

    Args:
        model: the network; it is not changed.
        config: of the run, for the batches.
        films: the training images and masks.
        budget: what all channels may cost, in the unit of ``channel_costs``.
        criterion: one of ``CRITERIA``.
    """
    batches = training_batches(films.to_dataset(), config, epoch=PROBE_EPOCH).take(PROBE_BATCHES)
    views, targets = map(np.concatenate, zip(*batches.as_numpy_iterator(), strict=True))
    importance, means = observe(model, views, targets, build_loss(config))
    if criterion == "norm":
        importance = norm_scales(model)
    kept = choose_channels(importance, channel_costs(model), budget)
    return keep_channels(model, kept, means)


def fine_tune(
    model: tf_keras.Model,
    config: TrainConfig,
    films: LabelledImages,
    teachers: Sequence[tf_keras.Model],
    epochs: int,
    learning_rate: float,
    number: int = 0,
    feature_weight: float = 0.0,
) -> tf_keras.Model:
    """Train a network on the run's batches and on what the teachers say of them.

    The loss is linear in its targets, so both are learned by learning their weighted mean. Labels are not
    smoothed: the teachers' answers are smooth enough. An image without lungs keeps its target of one
    half, and its features are not taught: what a teacher still sees in it comes from its frame. The
    network learns with the pooling of the runtime, because its logits would be too low if it was pooled
    otherwise in use. For its answers the weights are evened out as in the run; for its features they are
    not.

    Args:
        model: the network; it is not changed.
        config: of the run, for the batches.
        films: the training images and masks.
        teachers: networks of the same input.
        epochs: epochs as long as those of the run; with 0, ``model`` itself is returned.
        learning_rate: peak of the schedule.
        number: of this fine-tune, so that each draws other batches, dropout and powers of weights.
        feature_weight: weight of ``feature_loss`` from the first teacher's pooled features. They tell
            which images are unlike those of training, and an answer alone keeps little of that.

    Returns:
        A new network with the average of its last weights.
    """
    if not epochs:
        return model
    config = dataclasses.replace(config, label_smoothing=0.0)
    epoch = PROBE_EPOCH + 1 + number
    tf_keras.utils.set_random_seed(1000 * config.seed + epoch)  # of dropout and powers
    student = pool_inside(model)
    set_trainable(student, True, config.freeze_until, config.freeze_norms)
    rows = films.to_dataset()
    steps = count_steps(rows, config)
    teachers = [_with_features(teacher) for teacher in teachers]
    learner = _with_features(student)
    compile_model(learner, config, learning_rate, steps * epochs, {feature_loss: feature_weight})
    average = WeightAverage(learner, config.average_steps)

    @tf.autograph.experimental.do_not_convert  # nothing branches, and converting teachers takes seconds
    def ask_teachers(
        views: tf.Tensor, targets: tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
        logits, features = zip(*(teacher(views, training=False) for teacher in teachers), strict=True)
        answers = [tf.sigmoid(said) for said in logits]
        sick, viral = tf.unstack(tf.add_n(answers) / len(answers), axis=1)
        taught = tf.stack([sick, sick * viral], axis=1)
        taught = TEACHER_SHARE * taught + (1.0 - TEACHER_SHARE) * targets
        is_erased = tf.reduce_all(targets == UNDECIDED, axis=1)
        weights = tf.ones_like(sick), tf.where(is_erased, 0.0, 1.0)  # of answers and features
        return views, (tf.where(is_erased[:, tf.newaxis], targets, taught), features[0]), weights

    batches = training_batches(rows, config, epoch).map(ask_teachers).prefetch(2)
    learner.fit(batches, steps_per_epoch=steps, epochs=epochs, callbacks=[average], verbose=2)
    write_weights(learner, average.weights())
    return student


def feature_loss(taught: tf.Tensor, learned: tf.Tensor) -> tf.Tensor:
    """The squared distance of features (B, C) from those of a teacher, as a share of the variance of the
    teacher's in the batch (Romero et al. 2015, with the scale taken out). Returns float32 (B,)."""
    variance = tf.reduce_sum(tf.math.reduce_variance(taught, axis=0))
    return tf.reduce_sum((learned - taught) ** 2, axis=1) / (variance + 1e-6)


def _with_features(model: tf_keras.Model) -> tf_keras.Model:
    """The same network with its pooled features (B, C) as a second output, of weights as they are."""
    lungs = model.get_layer(WEIGHTS_LAYER)
    features, _ = model.get_layer(POOLED_LAYER).input
    weights = LungWeights(lungs.cells, lungs.inner)(lungs.input)
    pooled = WeightedPooling(name="features")([features, weights])
    return tf_keras.Model(model.input, [model.output, pooled])
