"""Rows of the one table of ``benchmarks/README.md``, printed as they are measured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

HEADER = "| benchmark | what | median | p95 | ratio |\n|---|---|---|---|---|"


def print_rows(benchmark: str, samples: Mapping[str, np.ndarray], reference: str, unit: str) -> None:
    """A markdown row for each entry, the smallest median first.

    Args:
        benchmark: what was measured.
        samples: measurements, float64 (N,), by name; one alone has no 95th percentile.
        reference: the name of the entry that ratios are to.
        unit: of the measurements.
    """
    base = np.median(samples[reference])
    for name, values in sorted(samples.items(), key=lambda item: np.median(item[1])):
        median, p95 = np.percentile(values, (50, 95))
        high = f"{_round(p95)} {unit}" if len(values) > 1 else ""
        ratio = f"{median / base:.2f}"
        print(f"| {benchmark} | {name} | {_round(median)} {unit} | {high} | {ratio} |", flush=True)


def _round(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
