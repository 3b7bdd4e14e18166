"""Numbers keep their order when they are rounded."""

import numpy as np
import pytest

from cxr.rounding import count_digits, format_number, format_probability, round_safely


@pytest.mark.parametrize(
    ("probability", "limits", "text"),
    [
        (0.73, (0.5,), "0.73"),
        (0.4996, (0.5,), "0.4996"),
        (0.4951, (0.5,), "0.495"),
        (0.5, (0.5,), "0.50"),
        (0.999, (0.5,), "over 0.99"),
        (0.001, (0.5,), "under 0.01"),
        (0.998, (0.996,), "over 0.996"),
        (0.993, (0.9934,), "0.9930"),
        (0.0012, (0.0015,), "under 0.002"),
        (1.0, (), "over 0.99"),
    ],
)
def test_a_probability_is_told_from_its_limits(probability, limits, text):
    assert format_probability(probability, *limits) == text


def test_rounded_numbers_keep_their_order():
    rng = np.random.default_rng(0)
    for limit in rng.uniform(0.02, 0.98, 200):
        value = float(np.clip(limit + rng.normal() * 10 ** rng.uniform(-8, -1), 0.011, 0.989))
        shown, other = float(format_number(value, limit)), float(format_number(limit, value))
        assert (shown < other) == (value < limit)
        assert (shown > other) == (value > limit)
        assert count_digits(value, limit) == count_digits(limit, value)


@pytest.mark.parametrize("limit", [0.5, 0.4999999, 0.50000004, 0.50000001])
@pytest.mark.parametrize("value", [0.5, 0.49999996, 0.50000001, 0.1234567])
def test_a_number_is_not_rounded_across_a_limit(value, limit):
    rounded = round_safely(value, limit, digits=6)
    assert (rounded > limit, rounded < limit) == (value > limit, value < limit)
    assert rounded == pytest.approx(value, abs=5e-7)


def test_a_number_far_from_its_limits_is_rounded():
    assert round_safely(0.1234567, 0.5, 0.9, digits=6) == 0.123457
