"""From logits to probabilities by temperature or Platt scaling, and the band of uncertain ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from training.metrics import Intervals, metrics_with_intervals

THRESHOLD = 0.5
LEAST_BAND = (0.4, 0.6)  # is uncertain in any case: images without lungs are scored here
MISSED_SHARE = 0.02  # of each class may lie outside the uncertain band on the wrong side


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The map from logits to probabilities, and the band of uncertain probabilities.

    There is no offset: the network is trained with both classes equally frequent, and a target of one
    half for images without lungs, so that a logit of 0 is undecided. An offset would decide those.
    """

    temperature: float
    offset: float
    uncertain: tuple[float, float]

    @classmethod
    def fit(cls, logits: np.ndarray, corrupted: np.ndarray, labels: np.ndarray) -> Calibration:
        """Fit the probability on validation images, and the band on their corrupted copies as well, so
        that the band also holds for images that differ.

        Args:
            logits: (N,) of the images without corruption.
            corrupted: (N,) of the same images with corruption.
            labels: (N,) of 0 and 1, both present.
        """
        temperature, offset = fit_calibration(logits, labels, has_offset=False)
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


def fit_calibration(
    logits: np.ndarray, labels: np.ndarray, has_offset: bool = True
) -> tuple[float, float]:
    """Platt scaling with both classes given equal weight: p = sigmoid(logit / temperature + offset); or
    temperature scaling (Guo et al. 2017), which has no offset.

    The probability is therefore that of a group in which both classes are equally frequent.

    Args:
        logits: (N,).
        labels: (N,) of 0 and 1, both present.
        has_offset: whether an offset is fitted; it is 0 otherwise.

    Returns:
        temperature (> 0) and offset (log-odds). Logits that fall with the label, of a model that has
        learned nothing, get a temperature so high that the probability is nearly constant.
    """
    scale = max(float(np.std(logits)), 1e-12)
    model = LogisticRegression(C=1e4, class_weight="balanced", fit_intercept=has_offset)
    model.fit(logits.reshape(-1, 1) / scale, labels > 0.5)
    slope = max(float(model.coef_[0, 0]), 1e-3)
    return scale / slope, float(np.squeeze(model.intercept_))


def find_uncertain_band(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """The band outside which the verdict is rarely wrong: no more than ``MISSED_SHARE`` of
    the PNEUMONIA images lie below it, and of the NORMAL images above it (after Vovk 2012, conformal
    prediction by class). It always contains ``LEAST_BAND``.

    Args:
        labels: (N,) of 0 and 1, both present, of patients that are not in training.
        probabilities: (N,), calibrated.
    """
    low = float(np.quantile(probabilities[labels > 0.5], MISSED_SHARE, method="lower"))
    high = float(np.quantile(probabilities[labels < 0.5], 1.0 - MISSED_SHARE, method="higher"))
    return min(low, LEAST_BAND[0]), max(high, LEAST_BAND[1])


def calibrate(logits: np.ndarray, temperature: float, offset: float) -> np.ndarray:
    """Logits (N,) to probabilities (N,)."""
    return expit(np.asarray(logits, np.float64) / temperature + offset)
