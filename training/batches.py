"""Augmented, balanced batches of a run."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from training.augmentation import augment
from training.config import TrainConfig


def count_steps(films: tf.data.Dataset, config: TrainConfig) -> int:
    """Batches of an epoch, at least 1."""
    return max(int(films.cardinality()) // config.batch_size, 1)


def training_batches(films: tf.data.Dataset, config: TrainConfig, epoch: int) -> tf.data.Dataset:
    """Endless augmented batches with half of each class on average. Every epoch has its own seed.

    Returns:
        A dataset of images float32 (B, S, S, 1) and targets float32 (B, 2): pneumonia, and viral
        pneumonia.
    """
    seed = config.seed * 1000 + epoch

    def of_class(label: float) -> tf.data.Dataset:
        members = films.filter(lambda row: row["label"] == label)
        return members.shuffle(4096, seed=seed).repeat()

    def to_example(index: tf.Tensor, row: dict) -> tuple[tf.Tensor, tf.Tensor]:
        drawn = tf.stack([tf.cast(index, tf.int32), seed])
        image = augment(row["image"], config.image_size, drawn, config.augmentation)
        return image, tf.stack([row["label"], row["viral"]])

    balanced = tf.data.Dataset.sample_from_datasets(
        [of_class(0.0), of_class(1.0)], weights=[0.5, 0.5], seed=seed
    )
    examples = balanced.enumerate().map(to_example, num_parallel_calls=tf.data.AUTOTUNE)
    batches = examples.batch(config.batch_size, drop_remainder=True)
    if config.mixup:
        share = np.random.default_rng(seed).beta(config.mixup, config.mixup, 4096).astype(np.float32)
        shares = tf.data.Dataset.from_tensor_slices(share).repeat()
        batches = tf.data.Dataset.zip((batches, shares)).map(_mix)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _mix(batch: tuple[tf.Tensor, tf.Tensor], share: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """MixUp (Zhang et al. 2018): mix each image, and its targets, with another of the same batch."""
    images, targets = (share * part + (1.0 - share) * part[::-1] for part in batch)
    return images, targets
