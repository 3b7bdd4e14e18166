"""Magnitude pruning with a short fine-tune (Zhu and Gupta 2017, tensorflow-model-optimization)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras
from tf_keras import layers

from training.averaging import WeightAverage, read_weights, write_weights
from training.batches import count_steps, training_batches
from training.config import TrainConfig
from training.model import set_trainable
from training.optimization import compile_model
from training.sources import LabelledImages

sparsity_api = tfmot.sparsity.keras


def is_pruned(layer: layers.Layer) -> bool:
    """Whether a layer is pruned: the 1x1 convolutions of the blocks, which have nine tenths of
    EfficientNet's weights. The stem, the depthwise and the squeeze-excite convolutions are small and
    sensitive, and stay dense."""
    is_pointwise = type(layer) is layers.Conv2D and layer.kernel_size == (1, 1)
    return is_pointwise and "_se_" not in layer.name


def prune(
    model: tf_keras.Model,
    config: TrainConfig,
    films: LabelledImages,
    sparsity: float,
    epochs: int,
    learning_rate: float,
    replace_layer: Callable[[layers.Layer], layers.Layer | None] = lambda _: None,
) -> tf_keras.Model:
    """Raise sparsity from 0 to its final value over the first half of a fine-tune, then recover.

    Args:
        model: a trained model of ``build_model``; it is not changed.
        config: of the run that trained it; gives the batches.
        films: the training images at ``config.film_size``.
        sparsity: share of zeros in each pruned kernel, 0..1.
        epochs: epochs of fine-tuning, as long as those of the run.
        learning_rate: peak of the fine-tune.
        replace_layer: from a layer that is not pruned to the layer that is fine-tuned in its place, or
            None to keep it; both must have the same weights.

    Returns:
        A new model of the same layers, without pruning wrappers.

    Raises:
        ValueError: if the network has nothing to prune.
    """
    if sparsity > 0 and not any(map(is_pruned, model.layers)):
        raise ValueError(
            f"received sparsity {sparsity} for {model.name}, which has no 1x1 kernels; accepted is 0"
        )
    copied = tf_keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    tf_keras.utils.set_random_seed(config.seed)
    rows = films.to_dataset()
    steps = count_steps(rows, config)
    schedule = sparsity_api.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=sparsity,
        begin_step=0,
        end_step=max(steps * epochs // 2, 1),
        frequency=max(steps * epochs // 20, 1),
    )

    def wrap(layer: layers.Layer) -> layers.Layer:
        if sparsity > 0 and is_pruned(layer):
            return sparsity_api.prune_low_magnitude(layer, pruning_schedule=schedule)
        return replace_layer(layer) or layer

    set_trainable(copied, True, config.freeze_until, config.freeze_norms)
    wrapped = tf_keras.models.clone_model(copied, clone_function=wrap)
    compile_model(wrapped, config, learning_rate, steps * epochs)
    average = WeightAverage(wrapped, config.average_steps)
    wrapped.fit(
        training_batches(rows, config, epoch=config.epochs),
        steps_per_epoch=steps,
        epochs=epochs,
        callbacks=[*([sparsity_api.UpdatePruningStep()] if sparsity > 0 else []), average],
        verbose=2,
    )
    # the average includes weights from before they were pruned; the last weights have the final zeros
    pairs = zip(read_weights(wrapped), average.weights(), strict=True)
    write_weights(wrapped, [np.where(last == 0, 0, mean) for last, mean in pairs])
    return _strip(wrapped, model)


def measure_sparsity(model: tf_keras.Model) -> float:
    """Share of zeros among the weights of the pruned kernels, 0..1."""
    kernels = [layer.get_weights()[0] for layer in model.layers if is_pruned(layer)]
    if not kernels:
        return 0.0
    return float(sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels))


def _strip(wrapped: tf_keras.Model, model: tf_keras.Model) -> tf_keras.Model:
    """Apply the masks and copy the weights into a copy of the model that was wrapped."""
    stripped = sparsity_api.strip_pruning(wrapped)
    fresh = tf_keras.models.clone_model(model)
    for layer, source in zip(fresh.layers, stripped.layers, strict=True):
        layer.set_weights(source.get_weights())
    return fresh
