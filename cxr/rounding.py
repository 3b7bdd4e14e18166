"""Numbers rounded so that what is read of them keeps their order."""

from __future__ import annotations

MAX_DIGITS = 15  # of a float64


def count_digits(value: float, *limits: float, least: int = 2) -> int:
    """The decimals that a number needs beside others: as many as ``least``, and more only where rounded
    numbers would be equal though the numbers themselves are not.

    Args:
        value: the number.
        limits: those that it is compared with, a threshold for one.
        least: decimals, 0 or more.
    """
    for digits in range(least, MAX_DIGITS):
        shown = round(value, digits)
        if all((shown > round(limit, digits)) == (value > limit) for limit in limits) and all(
            (shown < round(limit, digits)) == (value < limit) for limit in limits
        ):
            return digits
    return MAX_DIGITS


def format_number(value: float, *limits: float, least: int = 2) -> str:
    """The number with the decimals of ``count_digits``."""
    return f"{value:.{count_digits(value, *limits, least=least)}f}"


def format_probability(probability: float, *limits: float) -> str:
    """Two decimals, more only beside a limit that is as close; and no claim of certainty at either end.

    Args:
        probability: 0..1.
        limits: those that it is compared with, 0..1.
    """
    upper, lower = max([0.99, *limits]), min([0.01, *limits])
    if probability > upper:
        return f"over {format_number(upper, 0, 1)}"
    if probability < lower:
        return f"under {format_number(lower, 0, 1)}"
    return format_number(probability, *limits, 0, 1)
