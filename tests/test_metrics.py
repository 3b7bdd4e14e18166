import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from training.calibration import Calibration, calibrate, find_uncertain_band, fit_calibration
from training.metrics import (
    auroc,
    auroc_with_interval,
    compute_metrics,
    map_correlation,
    metrics_with_intervals,
    reliability,
    share_with_interval,
)

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
BAND = (0.35, 0.65)
SCORES = np.array([0.1, 0.2, 0.3, 0.7, 0.4, 0.6, 0.8, 0.8, 0.9, 0.95])


def test_metrics_by_hand():
    metrics = compute_metrics(LABELS, SCORES, 0.5, BAND)
    assert metrics == {
        "auroc": pytest.approx(22 / 24),
        "accuracy": 0.8,
        "sensitivity": pytest.approx(5 / 6),
        "specificity": 0.75,
        "precision": pytest.approx(5 / 6),
        "f1": pytest.approx(5 / 6),
        "brier": pytest.approx((np.sum(SCORES[:4] ** 2) + np.sum((1 - SCORES[4:]) ** 2)) / 10),
        "ece": pytest.approx((0.1 + 0.2 + 0.3 + 0.7 + 0.6 + 0.4 + 2 * 0.2 + 2 * 0.075) / 10),
        "balanced_brier": pytest.approx(
            0.5 * np.mean(SCORES[:4] ** 2) + 0.5 * np.mean((1 - SCORES[4:]) ** 2)
        ),
        "balanced_ece": pytest.approx(
            (0.1 + 0.2 + 0.3 + 0.7) / 8 + (0.6 + 0.4 + 2 * 0.2 + 2 * 0.075) / 12
        ),
        "coverage": 0.8,
        "selective_accuracy": pytest.approx(7 / 8),
    }


def test_the_threshold_itself_is_positive():
    assert compute_metrics(LABELS, SCORES, 0.95, BAND)["sensitivity"] == pytest.approx(1 / 6)


def test_intervals_hold_the_value_and_respect_patients():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    scores = expit(labels * 2 - 1 + rng.standard_normal(200))
    alone = metrics_with_intervals(labels, scores, 0.5, BAND, [str(i) for i in range(200)])
    assert all(m["low"] <= m["value"] <= m["high"] for m in alone.values())
    width = alone["accuracy"]["high"] - alone["accuracy"]["low"]
    p = alone["accuracy"]["value"]
    assert width == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 200), rel=0.15)
    repeated = metrics_with_intervals(
        labels.repeat(4), scores.repeat(4), 0.5, BAND, np.arange(200).repeat(4).astype(str)
    )
    wide = repeated["accuracy"]["high"] - repeated["accuracy"]["low"]
    assert wide == pytest.approx(width, rel=0.15)


def test_perfect_scores_do_not_get_a_point_interval():
    metrics = metrics_with_intervals(LABELS, LABELS.astype(float), 0.5, BAND, list("abcdefghij"))
    assert metrics["sensitivity"]["low"] == pytest.approx(0.025 ** (1 / 6))
    assert metrics["specificity"]["low"] == pytest.approx(0.025 ** (1 / 4))
    assert metrics["sensitivity"]["high"] == 1.0
    worst = metrics_with_intervals(LABELS, 1.0 - LABELS, 0.5, BAND, list("abcdefghij"))
    assert worst["sensitivity"]["high"] == pytest.approx(1 - 0.025 ** (1 / 6))
    twins = metrics_with_intervals(LABELS, LABELS.astype(float), 0.5, BAND, list("aabbccddee"))
    assert twins["specificity"]["low"] == pytest.approx(0.025 ** (1 / 2))


@pytest.mark.parametrize("films_each", [1, 3])
def test_shares_of_none_and_all_get_an_exact_interval_by_patients(films_each):
    patients = np.arange(20).repeat(films_each).astype(str)
    bound = 1 - 0.025 ** (1 / 20)  # Clopper and Pearson's for none of 20
    none = share_with_interval(np.zeros(len(patients), bool), patients)
    assert none == {"value": 0.0, "low": 0.0, "high": pytest.approx(bound)}
    every = share_with_interval(np.ones(len(patients), bool), patients)
    assert every == {"value": 1.0, "low": pytest.approx(1 - bound), "high": 1.0}
    some = share_with_interval(np.arange(len(patients)) % 2 == 0, patients)
    assert 0 < some["low"] < some["value"] < some["high"] < 1


def test_a_share_of_no_film_says_nothing():
    metrics = metrics_with_intervals(LABELS, np.full(10, 0.4), 0.5, BAND, list("abcdefghij"))
    assert metrics["precision"] == {"value": 0.0, "low": 0.0, "high": pytest.approx(0.975)}
    assert metrics["coverage"]["high"] == pytest.approx(1 - 0.025 ** (1 / 10))


def test_calibration_recovers_temperature_offset_and_ignores_prevalence():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, 200_000)
    labels = rng.random(200_000) < expit(logits / 2 + 0.5)
    rarer = labels & (rng.random(200_000) < 0.3) | ~labels & True
    for kept in (slice(None), np.flatnonzero(rarer)):
        temperature, offset = fit_calibration(logits[kept], labels[kept])
        assert temperature == pytest.approx(2.0, rel=0.05)
        balanced = np.log((~labels).mean() / labels.mean())
        assert offset == pytest.approx(0.5 + balanced, abs=0.05)
    assert calibrate(np.array([0.0]), 2.0, 0.0)[0] == 0.5


def test_without_an_offset_a_logit_of_zero_is_undecided():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, 200_000)
    labels = rng.random(200_000) < expit(logits / 2)
    assert fit_calibration(logits, labels, has_offset=False) == (pytest.approx(2.0, rel=0.05), 0.0)
    calibration = Calibration.fit(logits + 1.0, logits, labels)
    assert calibrate(np.zeros(1), calibration.temperature, calibration.offset)[0] == 0.5


def test_calibration_of_a_model_that_learned_nothing():
    logits = np.array([1e-7, 2e-7, 3e-7, 4e-7])
    temperature, offset = fit_calibration(logits, np.array([1, 1, 0, 0]))
    assert temperature > 0
    assert np.ptp(calibrate(logits, temperature, offset)) < 0.01


def test_reliability_gives_both_classes_the_same_weight():
    counts, expected, observed, share = reliability(LABELS, SCORES)
    assert counts.sum() == len(LABELS)
    assert share.sum() == pytest.approx(1.0)
    assert share @ observed == pytest.approx(0.5)
    assert share @ expected == pytest.approx((SCORES[:4].mean() + SCORES[4:].mean()) / 2)
    counts, expected, observed, share = reliability(LABELS, SCORES, balanced=False)
    assert share == pytest.approx(counts / len(LABELS))
    assert share @ observed == pytest.approx(0.6)
    assert share @ expected == pytest.approx(SCORES.mean())


def test_calibration_lowers_its_error():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 4000)
    logits = 8 * (labels - 0.5) + 8 * rng.standard_normal(4000)
    before = compute_metrics(labels, calibrate(logits, 1.0, 0.0), 0.5, BAND)
    fitted = Calibration.fit(logits, logits, labels)
    after = compute_metrics(labels, calibrate(logits, fitted.temperature, fitted.offset), 0.5, BAND)
    for kind in ("", "balanced_"):
        assert before[f"{kind}ece"] > 0.1
        assert after[f"{kind}ece"] < 0.03
        assert after[f"{kind}brier"] < before[f"{kind}brier"]
    assert after["auroc"] == pytest.approx(before["auroc"])


def test_few_films_lie_beyond_the_uncertain_band_on_the_wrong_side():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 10_000)
    probabilities = expit(2 * (labels - 0.5) + rng.standard_normal(10_000))
    low, high = find_uncertain_band(labels, probabilities)
    assert 0 < low < 0.5 < high < 1
    assert np.mean(probabilities[labels == 1] < low) == pytest.approx(0.02, abs=0.001)
    assert np.mean(probabilities[labels == 0] > high) == pytest.approx(0.02, abs=0.001)
    assert find_uncertain_band(labels, labels.astype(float)) == (0.4, 0.6)


def test_auroc_has_its_interval():
    result = auroc_with_interval(LABELS, SCORES, list("abcdefghij"))
    assert result["value"] == pytest.approx(22 / 24)
    assert result["low"] < result["value"] <= result["high"] <= 1


def test_maps_are_compared_by_rank():
    maps = np.random.default_rng(0).standard_normal((4, 5, 5))
    assert map_correlation(maps, np.exp(maps)) == pytest.approx(1.0)
    assert map_correlation(maps, -maps) == pytest.approx(-1.0)


def test_auroc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        positive = rng.random(60) < 0.3
        positive[:2] = True, False
        scores = np.round(rng.normal(positive, 1.0), 1)  # with ties
        assert auroc(positive, scores) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
