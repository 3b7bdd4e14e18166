"""An exponential average of a model's weights during training."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras


class WeightAverage(tf_keras.callbacks.Callback):
    """Averages the weights that training changes, at every tenth step or more often. The score then
    varies less between epochs (Izmailov et al. 2018; Cha et al. 2021).

    The optimizer's own ``use_ema`` is not used: it leaves out the moving statistics of BatchNorm, and at
    the end of every ``fit`` it replaces the weights that training continues from by their average.

    Args:
        model: the model whose weights the average starts from.
        steps: how far the average looks back; 1 keeps the last weights only.
    """

    INTERVAL = 10

    def __init__(self, model: tf_keras.Model, steps: int) -> None:
        super().__init__()
        self.interval = min(self.INTERVAL, steps)
        self.decay = 1.0 - self.interval / steps
        self.values = [tf.Variable(w, trainable=False) for w in read_weights(model)]

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Update the average (called by Keras)."""
        if batch % self.interval == 0:
            for average, weight in zip(self.values, read_weights(self.model), strict=True):
                average.assign(self.decay * average + (1.0 - self.decay) * weight)

    def weights(self) -> list[np.ndarray]:
        """The averages, in the order of ``read_weights``."""
        return [value.numpy() for value in self.values]


def read_weights(model: tf_keras.Model) -> list[np.ndarray]:
    """The weights that training changes, under any distribution strategy: first the trainable ones, then
    the moving statistics of each BatchNorm layer that is trained."""
    return tf_keras.backend.batch_get_value(_find_changing(model))


def write_weights(model: tf_keras.Model, values: list[np.ndarray]) -> None:
    """Set the weights that ``read_weights`` returns, under any distribution strategy."""
    tf_keras.backend.batch_set_value(list(zip(_find_changing(model), values, strict=True)))


def _find_changing(model: tf_keras.Model) -> list[tf.Variable]:
    """The moving statistics describe the outputs of particular weights, so averaged weights need averaged
    statistics."""
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, tf_keras.layers.BatchNormalization) and layer.trainable
    ]
    statistics = [variable for norm in norms for variable in norm.non_trainable_variables]
    return [*model.trainable_variables, *statistics]
