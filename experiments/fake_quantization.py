"""Quantization-aware fine-tuning: activations are rounded as in int8, so that the network adapts to the
rounding (Jacob et al. 2018).

The quantization-aware clone of tensorflow-model-optimization does not support swish. Here each swish
outside squeeze-excite, and each addition of the backbone, is replaced by a layer that rounds to 256
levels between the percentiles that ``export.quantize`` uses. Values outside are clipped and pass no
gradient.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

from export.quantize import SAMPLES_PER_FILM, Range, percentile_range

FILMS = 64  # number of images that ranges are measured on


@tf_keras.utils.register_keras_serializable("cxr")
class FakeQuantizedSwish(layers.Layer):
    """Swish whose input, sigmoid and output are rounded to 256 levels."""

    def __init__(self, before: Range, after: Range, **options) -> None:
        super().__init__(**options)
        self.before, self.after = before, after

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Round; the shape stays the same."""
        x = tf.quantization.fake_quant_with_min_max_args(x, *self.before)
        gate = tf.quantization.fake_quant_with_min_max_args(tf.sigmoid(x), 0.0, 1.0)
        return tf.quantization.fake_quant_with_min_max_args(x * gate, *self.after)

    def get_config(self) -> dict:
        """The arguments of ``from_config``."""
        return super().get_config() | {"before": self.before, "after": self.after}


@tf_keras.utils.register_keras_serializable("cxr")
class FakeQuantizedAdd(layers.Layer):
    """Sum of two tensors. Both tensors and the sum are rounded to 256 levels."""

    def __init__(self, inputs: tuple[Range, Range], after: Range, **options) -> None:
        super().__init__(**options)
        self.inputs_ranges, self.after = inputs, after

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Round; the shape stays the same."""
        first, second = (
            tf.quantization.fake_quant_with_min_max_args(x, *r)
            for x, r in zip(inputs, self.inputs_ranges, strict=True)
        )
        return tf.quantization.fake_quant_with_min_max_args(first + second, *self.after)

    def get_config(self) -> dict:
        """The arguments of ``from_config``."""
        return super().get_config() | {"inputs": self.inputs_ranges, "after": self.after}


def measure_activation_ranges(model: tf_keras.Model, films: np.ndarray) -> dict[str, list[Range]]:
    """Ranges of every swish and addition: those of its inputs, followed by that of its output.

    Args:
        model: of ``training.model.build_model``.
        films: views uint8 (N, S, S, 2).

    Returns:
        The ranges between ``RANGE_PERCENTILES`` by layer name.
    """
    chosen = [layer for layer in model.layers if _is_rounded(layer)]
    tensors = [[*tf.nest.flatten(layer.input), layer.output] for layer in chosen]
    spied = tf_keras.Model(model.input, tensors)
    rng = np.random.default_rng(0)
    samples: list[list[list[np.ndarray]]] = [[[] for _ in group] for group in tensors]
    for film in films.astype(np.float32):
        for group, values in zip(samples, spied(film[np.newaxis], training=False), strict=True):
            for kept, value in zip(group, values, strict=True):
                flat = value.numpy().ravel()
                kept.append(flat[rng.integers(0, flat.size, min(flat.size, SAMPLES_PER_FILM))])
    return {
        layer.name: [_range_of(np.concatenate(kept)) for kept in group]
        for layer, group in zip(chosen, samples, strict=True)
    }


def fake_quantize(layer: layers.Layer, ranges: dict[str, list[Range]]) -> layers.Layer | None:
    """The layer that rounds in place of a layer in ``ranges``; None for other layers."""
    if layer.name not in ranges:
        return None
    *before, after = ranges[layer.name]
    if isinstance(layer, layers.Add):
        return FakeQuantizedAdd(tuple(before), after, name=layer.name)
    return FakeQuantizedSwish(before[0], after, name=layer.name)


def _is_rounded(layer: layers.Layer) -> bool:
    is_swish = isinstance(layer, layers.Activation) and layer.activation is tf_keras.activations.swish
    return (is_swish and "_se_" not in layer.name) or isinstance(layer, layers.Add)


def _range_of(values: np.ndarray) -> Range:
    low, high = percentile_range(values)
    return min(float(low), 0.0), max(float(high), 1e-3)
