"""Augmented, balanced batches of a run."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from training.config import TrainConfig
from training.views import augment_view

OTHERS = 500  # is added to the seed that draws the images whose frames are used
UNDECIDED = (0.5, 0.25)  # the targets of an image whose lungs were erased


def count_steps(films: tf.data.Dataset, config: TrainConfig) -> int:
    """Batches of an epoch, at least 1."""
    return max(int(films.cardinality()) // config.batch_size, 1)


def training_batches(films: tf.data.Dataset, config: TrainConfig, epoch: int) -> tf.data.Dataset:
    """Endless augmented batches with half of each class on average. Each epoch of a stage has its own
    seed; both stages begin with the same one.

    Args:
        films: rows of ``load_split`` with masks, ``image`` uint8 (F, F, 2).
        config: the run.
        epoch: number of the epoch.

    Returns:
        A dataset of views float32 (B, S, S, 2), image and mask of 0..255, and targets float32 (B, 2):
        pneumonia, and viral pneumonia.
    """
    seed = config.seed * 1000 + epoch

    def draw(offset: int) -> tf.data.Dataset:
        classes = [
            films.filter(lambda row, label=label: row["label"] == label)
            .shuffle(4096, seed=seed + offset)
            .repeat()
            for label in (0.0, 1.0)
        ]
        return tf.data.Dataset.sample_from_datasets(classes, weights=[0.5, 0.5], seed=seed + offset)

    @tf.autograph.experimental.do_not_convert  # it branches with tf.cond; conversion takes seconds
    def to_example(index: tf.Tensor, pair: tuple[dict, dict]) -> tuple[tf.Tensor, tf.Tensor]:
        row, other = pair
        view, is_erased = augment_view(
            row["image"],
            other["image"],
            config.image_size,
            tf.stack([tf.cast(index, tf.int32), seed]),
            config.augmentation,
            config.surroundings,
        )
        targets = tf.stack([row["label"], row["viral"]])
        return view, tf.where(is_erased, tf.constant(UNDECIDED), targets)

    pairs = tf.data.Dataset.zip((draw(0), draw(OTHERS))).enumerate()
    examples = pairs.map(to_example, num_parallel_calls=tf.data.AUTOTUNE)
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
