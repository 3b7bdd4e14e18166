"""Metrics with intervals, and calibration.

Commands::

    python -m training.evaluate run runs/NAME --data data/chest_xray
    python -m training.evaluate model --data data/nih_adults
    python -m training.evaluate explanation --data data/chest_xray --run runs/NAME
    python -m training.evaluate resolution --data data/chest_xray

All measure validation patients unless ``--split`` says otherwise: the official test split is for the
last report, not for choices. The first measures a trained run, the second a shipped model through the
runtime that users have, with subgroups, cause and calibration, on a split or on any folder of films with
labels; the third tests the evidence of a shipped model, the fourth its verdicts on synthetic films of
full resolution.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.special import expit
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

THRESHOLD = 0.5
BOOTSTRAP_RESAMPLES = 1000
CALIBRATION_BINS = 10
MISSED_SHARE = 0.02  # of each class may lie beyond the uncertain band, on the wrong side

Metrics = dict[str, float]
Intervals = dict[str, dict[str, float]]


def compute_metrics(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float, uncertain: tuple[float, float]
) -> Metrics:
    """AUROC; accuracy, sensitivity, specificity, precision and F1 of ``probability >= threshold``;
    Brier score and expected calibration error, with every film counted once, and ``balanced`` with the
    same weight for both classes, as the probability assumes; the share of films outside the uncertain
    band, and the accuracy on them.

    Args:
        labels: (N,) of 0 NORMAL and 1 PNEUMONIA, both present.
        probabilities: (N,), in 0..1.
        threshold: the operating point.
        uncertain: the band, both ends of which belong to it.
    """
    positive = labels > 0.5
    predicted = probabilities >= threshold
    hits = np.sum(predicted & positive)
    squared_error = (probabilities - positive) ** 2
    certain = (probabilities < uncertain[0]) | (probabilities > uncertain[1])
    return {
        "auroc": float(roc_auc_score(positive, probabilities)),
        "accuracy": float(np.mean(predicted == positive)),
        "sensitivity": float(np.mean(predicted[positive])),
        "specificity": float(np.mean(~predicted[~positive])),
        "precision": float(hits / max(predicted.sum(), 1)),
        "f1": float(2 * hits / max(predicted.sum() + positive.sum(), 1)),
        "brier": float(np.mean(squared_error)),
        "ece": _calibration_error(labels, probabilities, balanced=False),
        "balanced_brier": float(np.sum(_balance(positive) * squared_error)),
        "balanced_ece": _calibration_error(labels, probabilities, balanced=True),
        "coverage": float(np.mean(certain)),
        "selective_accuracy": float(np.sum(certain & (predicted == positive)) / max(certain.sum(), 1)),
    }


def reliability(
    labels: np.ndarray, probabilities: np.ndarray, balanced: bool = True
) -> tuple[np.ndarray, ...]:
    """Bins of equal width over the probability.

    Args:
        labels: (N,) of 0 and 1, both present.
        probabilities: (N,), in 0..1.
        balanced: whether both classes have the same weight; else every film has.

    Returns:
        For each bin that holds a film: films, mean probability, share of PNEUMONIA, share of the
        weight; (M,) each.
    """
    positive = labels > 0.5
    weights = _balance(positive) if balanced else np.full(len(positive), 1.0 / len(positive))
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    counts, share, expected, observed = (
        np.bincount(bins, w, CALIBRATION_BINS)
        for w in (None, weights, weights * probabilities, weights * positive)
    )
    kept = counts > 0
    return counts[kept], expected[kept] / share[kept], observed[kept] / share[kept], share[kept]


def _calibration_error(labels: np.ndarray, probabilities: np.ndarray, balanced: bool) -> float:
    """Mean distance of the mean probability and the share of PNEUMONIA in a bin, by its weight."""
    _, expected, observed, share = reliability(labels, probabilities, balanced)
    return float(np.sum(share * np.abs(expected - observed)))


def _balance(positive: np.ndarray) -> np.ndarray:
    """Weights (N,) that sum to one half in each class of bool (N,)."""
    return np.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum())


def metrics_with_intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    uncertain: tuple[float, float],
    patients: Sequence[str],
    seed: int = 0,
) -> Intervals:
    """``compute_metrics`` with 95 % percentile intervals of a bootstrap over patients.

    Patients are drawn, not films: two films of one child are not independent. Where all films are
    right, or all wrong, resampling gives no width, and a share gets ``exact_interval``.

    Args:
        labels, probabilities, threshold, uncertain: as in ``compute_metrics``.
        patients: (N,) patient keys.
        seed: of the bootstrap.

    Returns:
        ``{metric: {"value": .., "low": .., "high": ..}}``.
    """
    samples = []
    for drawn in _draw_patients(patients, seed):
        if 0 < labels[drawn].sum() < len(drawn):
            samples.append(compute_metrics(labels[drawn], probabilities[drawn], threshold, uncertain))
    counted = {  # the films that each share is a share of
        "accuracy": labels >= 0,
        "sensitivity": labels > 0.5,
        "specificity": labels < 0.5,
        "precision": probabilities >= threshold,
        "coverage": labels >= 0,
        "selective_accuracy": (probabilities < uncertain[0]) | (probabilities > uncertain[1]),
    }
    result = {}
    for name, value in compute_metrics(labels, probabilities, threshold, uncertain).items():
        low, high = np.percentile([s[name] for s in samples], (2.5, 97.5))
        if name in counted and value in (0.0, 1.0):
            low, high = exact_interval(value, np.asarray(patients)[counted[name]])
        # resampling makes the calibration error larger; the interval is widened to hold the value
        result[name] = {"value": value, "low": min(float(low), value), "high": max(float(high), value)}
    return result


@dataclasses.dataclass(frozen=True)
class Calibration:
    """From logits to probabilities, and the band of probabilities not to be relied on."""

    temperature: float
    offset: float
    uncertain: tuple[float, float]

    @classmethod
    def fit(cls, logits: np.ndarray, corrupted: np.ndarray, labels: np.ndarray) -> Calibration:
        """Fit on validation patients: the probability on films as they come, the band on films under
        stress as well, since it is to hold where films differ.

        Args:
            logits: (N,), of the films as they are.
            corrupted: (N,), of the same corrupted.
            labels: (N,) of 0 and 1, both present.
        """
        temperature, offset = fit_calibration(logits, labels)
        both = calibrate(np.concatenate([logits, corrupted]), temperature, offset)
        return cls(temperature, offset, find_uncertain_band(np.tile(labels, 2), both))

    def measure(self, labels: np.ndarray, logits: np.ndarray, patients: Sequence[str]) -> Intervals:
        """``metrics_with_intervals`` of logits (N,) at ``THRESHOLD``."""
        probabilities = calibrate(logits, self.temperature, self.offset)
        return metrics_with_intervals(labels, probabilities, THRESHOLD, self.uncertain, patients)

    def operating_points(self, labels: np.ndarray, logits: np.ndarray) -> dict[str, list[float]]:
        """Sensitivity and specificity at the probabilities .01 to .99, as equally long lists."""
        probabilities = calibrate(logits, self.temperature, self.offset)
        points: dict[str, list[float]] = {"threshold": [], "sensitivity": [], "specificity": []}
        for percent in range(1, 100):
            predicted = probabilities >= percent / 100
            points["threshold"].append(percent / 100)
            points["sensitivity"].append(round(float(np.mean(predicted[labels > 0.5])), 4))
            points["specificity"].append(round(float(np.mean(~predicted[labels < 0.5])), 4))
        return points


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


def find_uncertain_band(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """The band outside of which a film may be called with few errors: no more than ``MISSED_SHARE`` of
    the PNEUMONIA films lie below it, and of the NORMAL films above it (after Vovk 2012, conformal
    prediction by class). It always holds ``THRESHOLD``.

    Args:
        labels: (N,) of 0 and 1, both present, of patients never trained on.
        probabilities: (N,), calibrated.
    """
    low = float(np.quantile(probabilities[labels > 0.5], MISSED_SHARE, method="lower"))
    high = float(np.quantile(probabilities[labels < 0.5], 1.0 - MISSED_SHARE, method="higher"))
    return min(low, THRESHOLD), max(high, THRESHOLD)


def calibrate(logits: np.ndarray, temperature: float, offset: float) -> np.ndarray:
    """Logits (N,) to probabilities (N,)."""
    return expit(np.asarray(logits, np.float64) / temperature + offset)


def format_metrics(metrics: Intervals) -> str:
    """A line a metric: value and 95 % interval."""
    return "\n".join(
        f"{name:17} {m['value']:.4f}  (95 % interval {m['low']:.4f} .. {m['high']:.4f})"
        for name, m in metrics.items()
    )


def auroc_with_interval(
    labels: np.ndarray, scores: np.ndarray, patients: Sequence[str], seed: int = 0
) -> dict[str, float]:
    """AUROC with the 95 % percentile interval of a bootstrap over patients: value, low, high."""
    samples = []
    for drawn in _draw_patients(patients, seed):
        if 0 < labels[drawn].sum() < len(drawn):
            samples.append(roc_auc_score(labels[drawn], scores[drawn]))
    low, high = np.percentile(samples, (2.5, 97.5))
    return {"value": float(roc_auc_score(labels, scores)), "low": float(low), "high": float(high)}


def share_with_interval(flags: np.ndarray, patients: Sequence[str], seed: int = 0) -> dict[str, float]:
    """Share of True in bool (N,), with the interval of a bootstrap over patients, or ``exact_interval``
    where all or none are: value, low, high."""
    value = float(np.mean(flags))
    if value in (0.0, 1.0):
        low, high = exact_interval(value, patients)
    else:
        shares = [np.mean(flags[drawn]) for drawn in _draw_patients(patients, seed)]
        low, high = np.percentile(shares, (2.5, 97.5))
    return {"value": value, "low": float(low), "high": float(high)}


def exact_interval(share: float, patients: Sequence[str]) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a share of 0 or 1 of these patients' films. It counts
    patients: two films of one child are not independent."""
    count = max(len(set(patients)), 1)
    interval = binomtest(round(share) * count, count).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def _draw_patients(patients: Sequence[str], seed: int) -> Iterator[np.ndarray]:
    """Indices of the films of as many patients as there are, drawn with replacement."""
    rng = np.random.default_rng(seed)
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    films_of = [np.flatnonzero(owner == i) for i in range(len(names))]
    for _ in range(BOOTSTRAP_RESAMPLES):
        yield np.concatenate([films_of[i] for i in rng.integers(0, len(names), len(names))])


def main() -> None:
    from training import explanation, measure
    from training.dataset import SPLITS

    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description=__doc__.split("\n", maxsplit=1)[0]
    )
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="a trained run")
    run.add_argument("run", type=Path, help="runs/NAME of training.train")
    run.set_defaults(act=lambda a: measure.evaluate_run(a.run, a.data, a.split))
    model = commands.add_parser("model", help="a shipped model, on a split or on any labelled folder")
    model.set_defaults(act=lambda a: measure.evaluate_model(a.model, a.data, a.split, a.plots))
    model.add_argument("--plots", type=Path, help="folder for the reliability diagram")
    evidence = commands.add_parser("explanation", help="the evidence of a shipped model")
    evidence.set_defaults(act=lambda a: explanation.evaluate(a.model, a.data, a.split, a.run))
    evidence.add_argument("--run", type=Path, help="its run, for the tests that need gradients")
    size = commands.add_parser("resolution", help="a shipped model on enlarged films")
    size.set_defaults(act=lambda a: measure.evaluate_resolution(a.model, a.data, a.split))
    for command in (run, model, evidence, size):
        command.add_argument("--data", type=Path, required=True)
        command.add_argument("--split", choices=SPLITS, default="val")
    for command in (model, evidence, size):
        command.add_argument("--model", default="int8", help="int8, float32 or FILE.tflite")
    args = parser.parse_args()
    try:
        print(args.act(args))
    except (ValueError, FileNotFoundError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
