"""Command lines that several experiments share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from training.names import SPLITS


def new_parser(module: str, doc: str) -> argparse.ArgumentParser:
    """A parser for ``python -m module``, described by the first line of the module's docstring."""
    return argparse.ArgumentParser(prog=f"python -m {module}", description=doc.split("\n", maxsplit=1)[0])


def run_on_model(
    parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], str], split: str = "val"
) -> None:
    """Parse ``--model``, ``--data`` and ``--split`` beside the parser's own options, and print what is
    measured. ``split`` is read unless the command names another."""
    parser.add_argument("--model", default="int8", help="int8, float32 or FILE.tflite")
    parser.add_argument("--data", type=Path, required=True, help="the data set, or labelled images")
    parser.add_argument("--split", choices=SPLITS, default=split, help=f"{split} unless given")
    args = parser.parse_args()
    try:
        print(measure(args))
    except (ValueError, FileNotFoundError) as error:
        parser.exit(1, f"{error}\n")
