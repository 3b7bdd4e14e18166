"""Print rows of the main table of ``benchmarks/README.md`` as soon as they are measured.

Each benchmark prints its own rows of one table, without a header; so ``DataFrame.to_markdown`` would not
be shorter here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

COLUMNS = ("benchmark", "what", "median", "p95", "ratio")
LEFT_OUT = re.compile(  # of the README's table: what says little beside the other rows
    "|".join(
        (
            "224 px",
            "limit of",
            "float16",
            "OpenVINO float32$",
            "2 thread.*(ONNX Runtime float32|TensorFlow)",
            "Keras predict",
            "memory of",
            "page's script",
            "page, kB.*Mbit",
            "layout shift.*Mbit",
            "page, erase the lungs",
            "whole session",
            "decode a JPEG",
            "a million films",
            "reading and decoding",
            "training",
            "an epoch",
        )
    )
)


def print_rows(benchmark: str, samples: Mapping[str, np.ndarray], reference: str, unit: str) -> None:
    """Print a markdown row for each entry, with the smallest median first.

    Args:
        benchmark: what was measured.
        samples: measurements, float64 (N,), by name; a single one has no 95th percentile.
        reference: the name of the entry that the ratios refer to.
        unit: unit of the measurements.
    """
    base = np.median(samples[reference])
    for name, values in sorted(samples.items(), key=lambda item: np.median(item[1])):
        median, p95 = np.percentile(values, (50, 95))
        high = f"{_round(p95)} {unit}" if len(values) > 1 else ""
        ratio = f"{median / base:.2f}" if base else ""
        print(f"| {benchmark} | {name} | {_round(median)} {unit} | {high} | {ratio} |", flush=True)


def _round(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def read_table(text: str) -> pd.DataFrame:
    """A printed table with its header, in markdown. All of its cells are strings."""
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
    )
    return pd.DataFrame(rows, columns=header)


def shorten(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of all benchmarks that a reader needs, with the ratio first."""
    names = table.benchmark + ", " + table.what
    kept = table[[LEFT_OUT.search(name) is None for name in names]]
    return kept[["benchmark", "what", "ratio", "median"]]
