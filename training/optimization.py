"""Loss, optimizer and schedule of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf
import tf_keras

from training.config import TrainConfig

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # from targets and outputs to (B,)


def compile_model(
    model: tf_keras.Model,
    config: TrainConfig,
    learning_rate: float,
    steps: int,
    more: Mapping[Loss, float] | None = None,
) -> None:
    """Compile with AdamW under warm-up and cosine decay, and label smoothing.

    Args:
        model: to compile.
        config: gives weight decay, warm-up and smoothing.
        learning_rate: the peak of the schedule.
        steps: length of the schedule.
        more: the losses of further outputs, with their weights.
    """
    share, start, end = (0.3, 1 / 25, 4e-6) if config.one_cycle else (config.warmup_share, 0.01, 0.01)
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=learning_rate * start,
        decay_steps=max(int(steps * (1 - share)), 1),
        alpha=end,
        warmup_target=learning_rate,
        warmup_steps=int(steps * share),
    )

    optimizer = tf_keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay)
    if more:
        model.compile(optimizer, [build_loss(config), *more], loss_weights=[1.0, *more.values()])
    else:
        model.compile(optimizer, build_loss(config))


def build_loss(config: TrainConfig) -> Loss:
    """``loss_of_both`` with the run's smoothing and weight."""

    def loss(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return loss_of_both(targets, logits, config.label_smoothing, config.cause_weight)

    return loss


def loss_of_both(
    targets: tf.Tensor, logits: tf.Tensor, label_smoothing: float, cause_weight: float
) -> tf.Tensor:
    """Cross-entropy of pneumonia, plus the cross-entropy of its cause for images with pneumonia.

    Args:
        targets: float32 (B, 2), shares of pneumonia and of viral pneumonia; 0 or 1 unless mixed.
        logits: float32 (B, 2) of ``build_model``.
        label_smoothing: share of each label that is divided equally between both labels.
        cause_weight: weight of the second cross-entropy.

    Returns:
        float32 (B,).
    """
    pneumonia, viral = tf.unstack(targets, axis=1)
    viral = viral * (1.0 - label_smoothing) + pneumonia * label_smoothing / 2.0
    smooth = pneumonia * (1.0 - label_smoothing) + label_smoothing / 2.0
    loss = tf.nn.sigmoid_cross_entropy_with_logits(smooth, logits[:, 0])
    # -(viral log p + (pneumonia - viral) log (1 - p)), linear in the targets and so in mixed ones
    cause = pneumonia * tf.nn.softplus(logits[:, 1]) - viral * logits[:, 1]
    return loss + cause_weight * cause
