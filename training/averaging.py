"""An exponential average of a model's weights during training."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras


class WeightAverage(tf_keras.callbacks.Callback):
    """Averages the weights that training changes, at every tenth step or more often, which calms the
    swings of the score between epochs (Izmailov et al. 2018; Cha et al. 2021).

    Args:
        model: whose weights it starts from.
        steps: how far the average looks back; 1 for the last weights alone.
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
    """The weights that training changes, under any distribution strategy: the trainable ones, and then
    the moving statistics of each BatchNorm that is trained."""
    return tf_keras.backend.batch_get_value(_find_changing(model))


def write_weights(model: tf_keras.Model, values: list[np.ndarray]) -> None:
    """Set what ``read_weights`` returns, under any distribution strategy."""
    tf_keras.backend.batch_set_value(list(zip(_find_changing(model), values, strict=True)))


def _find_changing(model: tf_keras.Model) -> list[tf.Variable]:
    """Statistics belong to the weights whose outputs they describe: averaged weights with the statistics
    of the last weights are a network that nobody trained."""
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, tf_keras.layers.BatchNormalization) and layer.trainable
    ]
    statistics = [variable for norm in norms for variable in norm.non_trainable_variables]
    return [*model.trainable_variables, *statistics]
