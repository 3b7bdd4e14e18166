"""Ways to store the network: float32, float16, dynamic, weight-only and int8.

Command, on the validation patients::

    python -m experiments.formats --run runs/e0
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras
from ai_edge_quantizer import quantizer, recipe

from experiments.options import new_parser
from experiments.study import ALL_BUT_HEAD, Study, format_models, round_to_int8, run_study
from export.convert import save_with_signature, to_tflite
from export.heads import refit_heads
from export.quantize import Range, quantize
from export.structure import load_exported


def compare_formats(study: Study) -> str:
    """A markdown table of the ways to store the shipped network."""
    model = load_exported(study.run)[1]
    float32, films = to_tflite(model), study.calibration_films[..., :1]
    int8 = quantize(float32, films)
    formats = {
        "float32": float32,
        "float16 weights": _to_float16(model),
        "dynamic-range int8": _quantize_weights(float32, recipe.dynamic_wi8_afp32()),
        "weight-only int8": _quantize_weights(float32, recipe.weight_only_wi8_afp32()),
        "int8 but head, sampled minimum to maximum": quantize(float32, films, ALL_BUT_HEAD, _whole_range),
        "int8 but head, least squared error": quantize(float32, films, ALL_BUT_HEAD, least_error_range),
        "int8 but head, percentiles": quantize(float32, films, ALL_BUT_HEAD),
        "stem and block 1 float, least squared error": quantize(
            float32, films, choose_range=least_error_range
        ),
        "stem and block 1 float, percentiles": int8,
        "that, heads fitted again on the same films": refit_heads(float32, int8, films),
    }
    return format_models(study, formats)


def least_error_range(values: np.ndarray) -> Range:
    """The range of least squared error in 256 levels that clips the same share at both ends."""
    tails = (0.0, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    ranges = [tuple(np.percentile(values, (tail, 100.0 - tail))) for tail in tails]
    errors = [np.mean((values - round_to_int8(values, r)) ** 2) for r in ranges]
    return ranges[int(np.argmin(errors))]


def _whole_range(values: np.ndarray) -> Range:
    return float(values.min()), float(values.max())


def _quantize_weights(model: bytes, weights_recipe: list) -> bytes:
    return bytes(
        quantizer.Quantizer(bytearray(model), weights_recipe)
        .quantize(enable_progress_report=False)
        .quantized_model
    )


def _to_float16(model: tf_keras.Model) -> bytes:
    with save_with_signature(model) as folder:
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        return converter.convert()


def main() -> None:
    run_study(new_parser("experiments.formats", __doc__), lambda study, _: compare_formats(study))


if __name__ == "__main__":
    main()
