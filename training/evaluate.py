"""Metrics with intervals, calibration, and the report of a trained run.

Command::

    python -m training.evaluate --run runs/NAME --data data/chest_xray --split test
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

THRESHOLD = 0.5
BOOTSTRAP_RESAMPLES = 1000

Metrics = dict[str, float]
Intervals = dict[str, dict[str, float]]


def compute_metrics(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> Metrics:
    """AUROC, and accuracy, sensitivity, specificity, precision and F1 of ``probability >= threshold``.

    Args:
        labels: (N,) of 0 NORMAL and 1 PNEUMONIA, both present.
        probabilities: (N,), in 0..1.
        threshold: the operating point.
    """
    positive = labels > 0.5
    predicted = probabilities >= threshold
    hits = np.sum(predicted & positive)
    return {
        "auroc": float(roc_auc_score(positive, probabilities)),
        "accuracy": float(np.mean(predicted == positive)),
        "sensitivity": float(np.mean(predicted[positive])),
        "specificity": float(np.mean(~predicted[~positive])),
        "precision": float(hits / max(predicted.sum(), 1)),
        "f1": float(2 * hits / max(predicted.sum() + positive.sum(), 1)),
    }


def metrics_with_intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    patients: Sequence[str],
    seed: int = 0,
) -> Intervals:
    """``compute_metrics`` with 95 % percentile intervals of a bootstrap over patients.

    Patients are drawn, not films: two films of one child are not independent. Where all are right,
    or all wrong, resampling gives no width, and a share gets Clopper and Pearson's bound, by patients.

    Args:
        labels, probabilities, threshold: as in ``compute_metrics``.
        patients: (N,) patient keys.
        seed: of the bootstrap.

    Returns:
        ``{metric: {"value": .., "low": .., "high": ..}}``.
    """
    rng = np.random.default_rng(seed)
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    films_of = [np.flatnonzero(owner == i) for i in range(len(names))]
    samples = []
    while len(samples) < BOOTSTRAP_RESAMPLES:
        drawn = np.concatenate([films_of[i] for i in rng.integers(0, len(names), len(names))])
        if 0 < labels[drawn].sum() < len(drawn):
            samples.append(compute_metrics(labels[drawn], probabilities[drawn], threshold))
    owners = {"accuracy": owner, "sensitivity": owner[labels > 0.5], "specificity": owner[labels < 0.5]}
    owners["precision"] = owner[probabilities >= threshold]
    result = {}
    for name, value in compute_metrics(labels, probabilities, threshold).items():
        low, high = np.percentile([s[name] for s in samples], (2.5, 97.5))
        if low == high and name in owners:
            width = 1.0 - 0.025 ** (1.0 / max(len(np.unique(owners[name])), 1))
            low, high = max(low - width, 0.0), min(high + width, 1.0)
        result[name] = {"value": value, "low": float(low), "high": float(high)}
    return result


def fit_calibration(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Platt scaling with both classes given equal weight: p = sigmoid(logit / temperature + offset).

    The probability is therefore that of a group in which half of the films show pneumonia, and 0.5
    is the point where sensitivity + specificity is largest under the fitted model (Youden), a
    smoother choice than the empirical maximum where validation is nearly separable.

    Args:
        logits: (N,).
        labels: (N,) of 0 and 1, both present.

    Returns:
        temperature (> 0) and offset (log-odds). Logits that fall with the label, of a model that has
        learned nothing, get a temperature so high that the probability is nearly constant.
    """
    scale = max(float(np.std(logits)), 1e-12)
    model = LogisticRegression(C=1e4, class_weight="balanced")
    model.fit(logits.reshape(-1, 1) / scale, labels > 0.5)
    slope = max(float(model.coef_[0, 0]), 1e-3)
    return scale / slope, float(model.intercept_[0])


def calibrate(logits: np.ndarray, temperature: float, offset: float) -> np.ndarray:
    """Logits (N,) to probabilities (N,)."""
    return expit(np.asarray(logits, np.float64) / temperature + offset)


def format_metrics(metrics: Intervals) -> str:
    """A line a metric: value and 95 % interval."""
    return "\n".join(
        f"{name:12} {m['value']:.4f}  (95 % interval {m['low']:.4f} .. {m['high']:.4f})"
        for name, m in metrics.items()
    )


def main() -> None:
    from training.dataset import SPLITS, load_films
    from training.plots import plot_confusion, plot_roc
    from training.train import TrainConfig, build_from, predict_logits

    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--run", type=Path, required=True, help="runs/NAME of training.train")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=SPLITS, default="test")
    args = parser.parse_args()

    config = TrainConfig(**json.loads((args.run / "config.json").read_text()))
    calibration = json.loads((args.run / "metrics.json").read_text())["calibration"]
    model = build_from(config)
    model.load_weights(args.run / "best_weights.h5")
    try:
        films = load_films(args.data, args.split, config.image_size)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    labels = films.labels
    logits = predict_logits(model, films.images)
    probabilities = calibrate(logits, calibration["temperature"], calibration["offset"])
    print(format_metrics(metrics_with_intervals(labels, probabilities, THRESHOLD, films.patients)))
    plot_roc(labels, probabilities, args.run / f"roc_{args.split}.png", f"ROC, {args.split}")
    plot_confusion(
        labels,
        probabilities >= THRESHOLD,
        args.run / f"confusion_{args.split}.png",
        f"Films, {args.split}",
    )


if __name__ == "__main__":
    main()
