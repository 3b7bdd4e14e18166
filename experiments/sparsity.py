"""Pruning at several sparsities, and with the fine-tune rounding activations as int8 will.

Command, on the validation patients::

    python -m experiments.sparsity --run runs/e0
"""

from __future__ import annotations

import functools

from experiments.fake_quantization import FILMS, fake_quantize, measure_activation_ranges
from experiments.options import new_parser
from experiments.study import ALL_BUT_HEAD, Study, format_models, run_study
from export.convert import to_tflite
from export.prune import prune
from export.quantize import quantize
from training.model import load_run

SPARSITIES = (0.0, 0.3, 0.5, 0.7)
ROUNDED = 0.3  # the sparsity at which rounding in the fine-tune is tried


def sweep_sparsity(study: Study, epochs: int, learning_rate: float) -> str:
    """A markdown table of each sparsity after the same fine-tune, and of ``ROUNDED`` with rounding."""
    _, dense = load_run(study.run)
    films = study.calibration_films[..., :1]
    models = {"not fine-tuned, float32": to_tflite(dense)}
    models["not fine-tuned, int8"] = quantize(models["not fine-tuned, float32"], films)
    for sparsity in SPARSITIES:
        pruned = prune(dense, study.config, study.train, sparsity, epochs, learning_rate)
        float32 = to_tflite(pruned)
        models[f"{sparsity:.0%}, float32"] = float32
        models[f"{sparsity:.0%}, int8"] = quantize(float32, films)
    ranges = measure_activation_ranges(dense, study.calibration_films[:FILMS])
    rounding = functools.partial(fake_quantize, ranges=ranges)
    float32 = to_tflite(prune(dense, study.config, study.train, ROUNDED, epochs, learning_rate, rounding))
    title = f"{ROUNDED:.0%}, rounded in training"
    models[f"{title}, float32"] = float32
    models[f"{title}, int8"] = quantize(float32, films)
    models[f"{title}, int8 but head"] = quantize(float32, films, ALL_BUT_HEAD)
    return format_models(study, models)


def main() -> None:
    parser = new_parser("experiments.sparsity", __doc__)
    parser.add_argument("--epochs", type=int, default=1, help="epochs of each fine-tune")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="peak of each fine-tune")
    run_study(parser, lambda study, args: sweep_sparsity(study, args.epochs, args.learning_rate))


if __name__ == "__main__":
    main()
