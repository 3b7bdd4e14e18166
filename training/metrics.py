"""Metrics of probabilities against labels, with intervals over patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import binomtest, rankdata, spearmanr

BOOTSTRAP_RESAMPLES = 1000
CALIBRATION_BINS = 10

Metrics = dict[str, float]
Intervals = dict[str, dict[str, float]]


def auroc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve, as the Mann-Whitney statistic (Hanley and McNeil 1982).

    It equals scikit-learn's ``roc_auc_score``, which takes a hundred times as long: too long for the
    thousand resamples of each interval.

    Args:
        positive: bool (N,), with both values.
        scores: (N,); ties count one half.
    """
    count = int(positive.sum())
    below = rankdata(scores)[positive].sum() - count * (count + 1) / 2
    return float(below / (count * (len(positive) - count)))


def compute_metrics(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float, uncertain: tuple[float, float]
) -> Metrics:
    """AUROC; accuracy, sensitivity, specificity, precision and F1 of ``probability >= threshold``;
    Brier score and expected calibration error, once with the same weight for every image, and once
    (``balanced``) with the same weight for both classes, as the probability assumes; the share of images
    outside the uncertain band (coverage), and the accuracy on them (selective accuracy).

    Args:
        labels: (N,) of 0 NORMAL and 1 PNEUMONIA, both present.
        probabilities: (N,), in 0..1.
        threshold: the operating point.
        uncertain: lowest and highest probability of the uncertain band, both included.
    """
    positive = labels > 0.5
    predicted = probabilities >= threshold
    hits = np.sum(predicted & positive)
    squared_error = (probabilities - positive) ** 2
    certain = (probabilities < uncertain[0]) | (probabilities > uncertain[1])
    return {
        "auroc": auroc(positive, probabilities),
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
    """Group the probabilities into bins of equal width.

    scikit-learn's ``calibration_curve`` takes no weights, so it cannot balance the classes.

    Args:
        labels: (N,) of 0 and 1, both present.
        probabilities: (N,), in 0..1.
        balanced: whether both classes have the same weight, or every image has.

    Returns:
        For each bin that is not empty, (M,) each: number of images, mean probability, share of
        PNEUMONIA, and share of the total weight.
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
    """Mean over the bins, by weight, of |mean probability - share of PNEUMONIA|."""
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

    The bootstrap draws patients, not images, because two images of one child are not independent. Where
    all images are right, or all are wrong, its interval collapses to a point, and ``exact_interval``
    is used.

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
    counted = {  # the images in the denominator of each share
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
        # resampling makes the calibration error larger, so the interval may need widening
        result[name] = {"value": value, "low": min(float(low), value), "high": max(float(high), value)}
    return result


def format_metrics(metrics: Intervals) -> str:
    """One line for each metric, with its value and 95 % interval."""
    return "\n".join(
        f"{name:17} {m['value']:.4f}  (95 % interval {m['low']:.4f} .. {m['high']:.4f})"
        for name, m in metrics.items()
    )


def auroc_with_interval(
    labels: np.ndarray, scores: np.ndarray, patients: Sequence[str], seed: int = 0
) -> dict[str, float]:
    """AUROC as value, low and high, with the 95 % percentile interval of a bootstrap over patients."""
    samples = []
    for drawn in _draw_patients(patients, seed):
        if 0 < labels[drawn].sum() < len(drawn):
            samples.append(auroc(labels[drawn] > 0.5, scores[drawn]))
    low, high = np.percentile(samples, (2.5, 97.5))
    return {"value": auroc(labels > 0.5, scores), "low": float(low), "high": float(high)}


def mean_with_interval(values: np.ndarray, patients: Sequence[str], seed: int = 0) -> dict[str, float]:
    """Mean of (N,) as value, low and high, with the 95 % percentile interval of a bootstrap over
    patients."""
    means = [np.mean(values[drawn]) for drawn in _draw_patients(patients, seed)]
    low, high = np.percentile(means, (2.5, 97.5))
    return {"value": float(np.mean(values)), "low": float(low), "high": float(high)}


def share_with_interval(flags: np.ndarray, patients: Sequence[str], seed: int = 0) -> dict[str, float]:
    """Share of True in bool (N,) as value, low and high. The interval is that of a bootstrap over
    patients, or ``exact_interval`` where all or none are True."""
    value = float(np.mean(flags))
    if value in (0.0, 1.0):
        low, high = exact_interval(value, patients)
    else:
        return mean_with_interval(flags, patients, seed)
    return {"value": value, "low": float(low), "high": float(high)}


def exact_interval(share: float, patients: Sequence[str]) -> tuple[float, float]:
    """The 95 % interval of Clopper and Pearson for a share of 0 or 1. It counts patients, because two
    images of one child are not independent."""
    count = max(len(set(patients)), 1)
    interval = binomtest(round(share) * count, count).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def map_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation between two sets of maps (N, h, w): the median over the images."""
    pairs = zip(first, second, strict=True)
    return float(np.median([spearmanr(a, b, axis=None).statistic for a, b in pairs]))


def _draw_patients(patients: Sequence[str], seed: int) -> Iterator[np.ndarray]:
    """Draw as many patients as there are, with replacement, and yield the indices of their images."""
    rng = np.random.default_rng(seed)
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    films_of = [np.flatnonzero(owner == i) for i in range(len(names))]
    for _ in range(BOOTSTRAP_RESAMPLES):
        yield np.concatenate([films_of[i] for i in rng.integers(0, len(names), len(names))])
