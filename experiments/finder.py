"""How well the shipped finder of lungs holds on rotated, cropped, inverted, dark and bright images.

Command::

    python -m experiments.finder --data data/chest_xray
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cxr import LungFinder
from experiments.options import new_parser
from training.config import TrainConfig
from training.lungs import box_overlap, dice
from training.masks import load_masked
from training.metrics import mean_with_interval
from training.names import SPLITS

Change = Callable[[np.ndarray], np.ndarray]


def rotate(layers: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate uint8 (F, F, 2) about its centre; black comes in at the corners."""
    side = len(layers)
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(layers, turn, (side, side))


def crop(layers: np.ndarray, share: float) -> np.ndarray:
    """The middle of uint8 (F, F, 2), with ``share`` of each side."""
    margin = round(len(layers) * (1.0 - share) / 2.0)
    return layers[margin:-margin, margin:-margin]


def shade(layers: np.ndarray, gamma: float) -> np.ndarray:
    """Raise the gray levels of the image, as shares of full scale, to a power."""
    image = 255.0 * (layers[..., :1] / 255.0) ** gamma
    return np.concatenate([np.rint(image).astype(np.uint8), layers[..., 1:]], axis=-1)


def invert(layers: np.ndarray) -> np.ndarray:
    """The negative of the image."""
    return np.concatenate([255 - layers[..., :1], layers[..., 1:]], axis=-1)


CHANGES: dict[str, Change] = {
    "as they are": lambda layers: layers,
    "rotated by 20 degrees": lambda layers: rotate(layers, 20.0),
    "rotated by -20 degrees": lambda layers: rotate(layers, -20.0),
    "middle 80 % of each side": lambda layers: crop(layers, 0.8),
    "inverted": invert,
    "dark (gamma 2.5)": lambda layers: shade(layers, 2.5),
    "bright (gamma 0.4)": lambda layers: shade(layers, 0.4),
}


def format_table(data: Path, split: str) -> str:
    """A markdown table with Dice and box overlap on altered images, and how many have no lungs.

    Raises:
        ValueError: if the data or the masks cannot be used.
    """
    finder = LungFinder.load()
    films = load_masked(data, "", split, TrainConfig().film_size)
    rows = []
    for name, change in CHANGES.items():
        altered = [np.ascontiguousarray(change(layers)) for layers in films.images]
        found = [finder.find(layers[..., 0]) for layers in altered]
        drawn = np.stack([layers[..., 1:] for layers in altered])
        masks = np.stack([lungs.mask for lungs in found])
        row = {f"{split}, {len(found)} films": name}
        scores = {"Dice": dice(masks, drawn), "box overlap": box_overlap(masks, drawn[..., 0])}
        for title, values in scores.items():
            m = mean_with_interval(values, films.patients)
            row[title] = f"{m['value']:.3f} ({m['low']:.3f} .. {m['high']:.3f})"
        row["no lungs found"] = f"{np.mean([lungs.box is None for lungs in found]):.1%}"
        rows.append(row)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def main() -> None:
    parser = new_parser("experiments.finder", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data set")
    parser.add_argument("--split", choices=SPLITS, default="val", help="val unless given")
    args = parser.parse_args()
    try:
        print(format_table(args.data, args.split))
    except ValueError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
