"""Metrics of probabilities against labels, with intervals over patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import binomtest, spearmanr
from sklearn.metrics import roc_auc_score

BOOTSTRAP_RESAMPLES = 1000
CALIBRATION_BINS = 10

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


def map_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Median over films of Spearman's correlation between two sets of maps (N, h, w)."""
    pairs = zip(first, second, strict=True)
    return float(np.median([spearmanr(a, b, axis=None).statistic for a, b in pairs]))


def _draw_patients(patients: Sequence[str], seed: int) -> Iterator[np.ndarray]:
    """Indices of the films of as many patients as there are, drawn with replacement."""
    rng = np.random.default_rng(seed)
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    films_of = [np.flatnonzero(owner == i) for i in range(len(names))]
    for _ in range(BOOTSTRAP_RESAMPLES):
        yield np.concatenate([films_of[i] for i in rng.integers(0, len(names), len(names))])
