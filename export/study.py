"""What each choice of the export costs and buys, on the validation patients.

Commands::

    python -m export.study formats --run runs/b0      # float32, float16, dynamic, weight-only, int8
    python -m export.study layers --run runs/b0       # which blocks and tensors lose most in int8
    python -m export.study sparsity --run runs/b0     # pruning; rounding in the fine-tune

The official test split is not read.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from ai_edge_quantizer import quantizer, recipe
from sklearn.metrics import roc_auc_score

from cxr.classifier import Classifier
from cxr.latency import measure_latency
from export.convert import save_with_signature, to_tflite
from export.fake_quantization import FILMS, measure_activation_ranges
from export.measure import score
from export.prune import prune
from export.quantize import (
    FLOAT_LAYERS,
    Range,
    choose_calibration_films,
    find_activations,
    percentile_range,
    quantize,
    sample_activations,
)
from export.validate import blank_card
from training.config import TrainConfig
from training.evaluate import THRESHOLD, Calibration, calibrate
from training.explanation import map_correlation
from training.model import load_run
from training.validation import Validation, load_validation

HEAD = FLOAT_LAYERS[:1]
ALL_BUT_HEAD = (*HEAD, ".*/(rescaling|normalization).*")  # the float layers when all else is int8
SPARSITIES = (0.0, 0.3, 0.5, 0.7)
ROUNDED = 0.3  # sparsity that rounding in the fine-tune is tried at
BLOCKS = ("stem", "block1", "block2", "block3", "block4", "block5", "block6", "block7", "top")
BLOCK_FILMS = 100
SHOWN_TENSORS = 12


@dataclasses.dataclass(frozen=True)
class Study:
    """A run and the films that its exports are compared on."""

    run: Path
    config: TrainConfig
    calibration_films: np.ndarray
    validation: Validation

    def load(self, weights: str) -> tf_keras.Model:
        """The run's network with the weights of a file in its folder."""
        return load_run(self.run, weights)[1]

    def classifier(self, model: bytes) -> Classifier:
        """A flatbuffer as the runtime runs it, uncalibrated."""
        return Classifier(model, blank_card(model, "study", self.config.image_size, {}), num_threads=1)


def compare_formats(study: Study) -> str:
    """A markdown table of the ways to store the shipped network."""
    model = study.load("pruned_weights.h5")
    float32, films = to_tflite(model), study.calibration_films
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
        "stem and block 1 float, percentiles (shipped)": quantize(float32, films),
    }
    return _format(study, formats)


def report_layers(study: Study) -> str:
    """Two markdown tables: what the logit suffers when one block alone is int8, and the activations that
    the shipped ranges serve worst, by signal-to-quantization-noise ratio."""
    model = to_tflite(study.load("pruned_weights.h5"))
    chosen = slice(None, None, max(len(study.validation.films.paths) // BLOCK_FILMS, 1))
    images = study.validation.films.images[chosen, ..., 0]
    reference = score(study.classifier(model), images).logits
    lines = ["| int8 alone | error of the logit / its spread | correlation |", "|---|---|---|"]
    for block in BLOCKS:
        rest = "|".join(b for b in BLOCKS if b != block)
        patterns = [*HEAD, rf".*/(rescaling|normalization|{rest}).*"]
        logits = score(
            study.classifier(quantize(model, study.calibration_films, patterns)), images
        ).logits
        error = np.sqrt(np.mean((logits - reference) ** 2)) / reference.std()
        lines.append(f"| {block} | {error:.3f} | {np.corrcoef(logits, reference)[0, 1]:.4f} |")
    noise = {}
    films = study.calibration_films[:FILMS]
    names = set(find_activations(quantizer.Quantizer(bytearray(model), recipe.static_wi8_ai8()), films))
    for name, values in sample_activations(model, films, names).items():
        if values.std() > 0:
            error = np.mean((values - _round_to_int8(values, percentile_range(values))) ** 2)
            noise[name] = 10 * np.log10(values.var() / max(error, 1e-12))
    lines += ["", "| activation | signal to noise, dB |", "|---|---|"]
    for name in sorted(noise, key=noise.__getitem__)[:SHOWN_TENSORS]:
        lines.append(f"| {name.split(';')[0].removeprefix('efficientnet_b0/')} | {noise[name]:.1f} |")
    return "\n".join(lines)


def sweep_sparsity(study: Study, epochs: int, learning_rate: float) -> str:
    """A markdown table: each sparsity after the same fine-tune, and ``ROUNDED`` with rounding in it."""
    models = {"not fine-tuned, float32": to_tflite(study.load("best_weights.h5"))}
    models["not fine-tuned, int8"] = quantize(models["not fine-tuned, float32"], study.calibration_films)
    for sparsity in SPARSITIES:
        pruned = prune(study.load("best_weights.h5"), study.config, sparsity, epochs, learning_rate)
        float32 = to_tflite(pruned)
        models[f"{sparsity:.0%}, float32"] = float32
        models[f"{sparsity:.0%}, int8"] = quantize(float32, study.calibration_films)
    dense = study.load("best_weights.h5")
    ranges = measure_activation_ranges(dense, study.calibration_films[:FILMS])
    float32 = to_tflite(prune(dense, study.config, ROUNDED, epochs, learning_rate, ranges))
    title = f"{ROUNDED:.0%}, rounded in training"
    models[f"{title}, float32"] = float32
    models[f"{title}, int8"] = quantize(float32, study.calibration_films)
    models[f"{title}, int8 but head"] = quantize(float32, study.calibration_films, ALL_BUT_HEAD)
    return _format(study, models)


def least_error_range(values: np.ndarray) -> Range:
    """The range, clipped at both ends alike in percentiles, of least squared error in 256 levels."""
    tails = (0.0, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    ranges = [tuple(np.percentile(values, (tail, 100.0 - tail))) for tail in tails]
    errors = [np.mean((values - _round_to_int8(values, r)) ** 2) for r in ranges]
    return ranges[int(np.argmin(errors))]


def _whole_range(values: np.ndarray) -> Range:
    return float(values.min()), float(values.max())


def _round_to_int8(values: np.ndarray, limits: Range) -> np.ndarray:
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    step = max((high - low) / 255.0, 1e-12)
    return np.rint((np.clip(values, low, high) - low) / step) * step + low


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


def _format(study: Study, models: dict[str, bytes]) -> str:
    """A model a row; agreement and map correlation with the nearest float32 row above."""
    films, labels = study.validation.films, study.validation.films.labels
    classifiers = [study.classifier(model) for model in models.values()]
    film = films.images[0, ..., 0]
    times = [t.median_ms("inference") for t in measure_latency(classifiers, film, repeats=60, warmup=5)]
    lines = [
        "| model | validation AUROC | corrupted AUROC | labels as float32 | map correlation | size, MB "
        "| gzipped, MB | latency / float32 |",
        "|---" * 8 + "|",
    ]
    for (name, model), classifier, time_ms in zip(models.items(), classifiers, times, strict=True):
        plain, corrupted = (
            score(classifier, i[..., 0]) for i in (films.images, study.validation.corrupted)
        )
        calibration = Calibration.fit(plain.logits, corrupted.logits, labels)
        verdicts = np.concatenate(
            [
                calibrate(s.logits, calibration.temperature, calibration.offset) >= THRESHOLD
                for s in (plain, corrupted)
            ]
        )
        if name.endswith("float32"):
            reference, reference_maps, reference_ms = verdicts, plain.evidence, time_ms
        cells = [
            f"{roc_auc_score(labels, plain.logits):.4f}",
            f"{roc_auc_score(labels, corrupted.logits):.4f}",
            f"{np.mean(verdicts == reference):.1%}",
            f"{map_correlation(plain.evidence, reference_maps):.3f}",
            f"{len(model) / 1e6:.2f}",
            f"{len(gzip.compress(model)) / 1e6:.2f}",
            f"{time_ms / reference_ms:.2f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m export.study", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("command", choices=("formats", "layers", "sparsity"))
    parser.add_argument("--run", type=Path, required=True, help="runs/NAME of training.train and export")
    parser.add_argument("--data", help="the data set, where it has moved since training")
    parser.add_argument("--epochs", type=int, default=1, help="of each fine-tune of the sweep")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="peak of each fine-tune")
    args = parser.parse_args()
    try:
        config = TrainConfig(**json.loads((args.run / "config.json").read_text()))
        config = dataclasses.replace(config, data=args.data or config.data)
        films = choose_calibration_films(config.data, config.image_size)
        study = Study(args.run, config, films, load_validation(config))
        if args.command == "formats":
            print(compare_formats(study))
        elif args.command == "layers":
            print(report_layers(study))
        else:
            print(sweep_sparsity(study, args.epochs, args.learning_rate))
    except (ValueError, FileNotFoundError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
