"""Options that several experiments share."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.names import SPLITS


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--data`` and ``--split`` of a shipped model's measurement."""
    parser.add_argument("--model", default="int8", help="int8, float32 or FILE.tflite")
    parser.add_argument("--data", type=Path, required=True, help="the data set, or labelled images")
    parser.add_argument("--split", choices=SPLITS, default="val", help="val unless given")
