"""Round numbers so that the order of what is shown is the order of the numbers."""

from __future__ import annotations

MAX_DIGITS = 15  # of a float64


def count_digits(value: float, *limits: float, least: int = 2) -> int:
    """The number of decimals that a number needs so that rounding does not change a comparison.

    There are more than ``least`` only if rounded numbers would be equal although the numbers are not.

    Args:
        value: the number.
        limits: the numbers that it is compared with, such as a threshold.
        least: the least number of decimals, 0 or more.
    """
    for digits in range(least, MAX_DIGITS):
        shown = round(value, digits)
        if all((shown > round(limit, digits)) == (value > limit) for limit in limits) and all(
            (shown < round(limit, digits)) == (value < limit) for limit in limits
        ):
            return digits
    return MAX_DIGITS


def round_safely(value: float, *limits: float, digits: int) -> float:
    """Round a number, unless this would change a comparison with a limit that is not rounded."""
    rounded = round(value, digits)
    is_same = all(
        (rounded > limit, rounded < limit) == (value > limit, value < limit) for limit in limits
    )
    return rounded if is_same else value


def format_number(value: float, *limits: float, least: int = 2) -> str:
    """Format a number with as many decimals as ``count_digits`` says."""
    return f"{value:.{count_digits(value, *limits, least=least)}f}"


def format_probability(probability: float, *limits: float) -> str:
    """Format with two decimals, or more if a limit is close, and claim no certainty near 0 and 1.

    Args:
        probability: 0..1.
        limits: the probabilities that it is compared with, 0..1.
    """
    upper, lower = max([0.99, *limits]), min([0.01, *limits])
    if probability > upper:
        return f"over {format_number(upper, 0, 1)}"
    if probability < lower:
        return f"under {format_number(lower, 0, 1)}"
    return format_number(probability, *limits, 0, 1)
