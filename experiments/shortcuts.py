"""How well sharpness and gray levels alone predict the label, and how far a model follows them.

Command (the table of models/README.md)::

    python -m experiments.shortcuts --data data/chest_xray
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from cxr import Classifier, preprocess, read_image
from experiments.options import new_parser, run_on_model
from training.names import LABELS, list_labelled

FILM_PX = 224  # sharpness is measured at this size, because it depends on the size


def sharpness(pixels: np.ndarray) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al. 2000) of uint8 (H, W)."""
    return float(cv2.Laplacian(pixels.astype(np.float32), cv2.CV_32F).var())


CUES: dict[str, Callable[[np.ndarray], float]] = {
    "sharpness": sharpness,
    "1st percentile": lambda pixels: float(np.percentile(pixels, 1)),
    "median gray": lambda pixels: float(np.median(pixels)),
    "99th percentile": lambda pixels: float(np.percentile(pixels, 99)),
    "gray of the upper corners": lambda pixels: float(
        np.mean([pixels[: len(pixels) // 5, part].mean() for part in _outer_fifths(pixels)])
    ),
}


def _outer_fifths(pixels: np.ndarray) -> tuple[slice, slice]:
    width = pixels.shape[1] // 5
    return slice(None, width), slice(-width, None)


def measure_cues(films: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The value of each cue, (N,), for images uint8 (H, W)."""
    return {name: np.array([cue(film) for film in films]) for name, cue in CUES.items()}


def format_table(data: Path, split: str, model: str) -> str:
    """A markdown table with one row for each cue.

    It has the AUROC of the cue alone for the label, before and after ``preprocess`` (one minus the AUROC
    where it is below one half), and Spearman's correlation of the model's logit with the cue before
    ``preprocess``, within NORMAL and within PNEUMONIA.
    """
    listed = list_labelled(data, split)
    films = [read_image(path) for path, _, _ in listed]
    labels = np.array([label for _, label, _ in listed])
    small = [cv2.resize(film, (FILM_PX, FILM_PX), interpolation=cv2.INTER_AREA) for film in films]
    cues, prepared = (
        measure_cues(images) for images in (small, [preprocess(film, FILM_PX)[..., 0] for film in films])
    )
    classifier = Classifier.load(model)
    logits = np.array([classifier.predict(film).logit for film in films])
    rows = []
    for name, values in cues.items():
        row = {
            f"{split}, {len(films)} films": name,
            "AUROC alone": f"{_separation(labels, values):.3f}",
            "after preprocess": f"{_separation(labels, prepared[name]):.3f}",
        }
        for label, title in enumerate(LABELS):
            members = labels == label
            correlation = spearmanr(logits[members], values[members]).statistic
            row[f"{model} in {title}"] = f"{correlation:+.2f}"
        rows.append(row)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def _separation(labels: np.ndarray, values: np.ndarray) -> float:
    auroc = 0.5 if np.ptp(values) == 0 else float(roc_auc_score(labels, values))
    return max(auroc, 1.0 - auroc)


def main() -> None:
    run_on_model(
        new_parser("experiments.shortcuts", __doc__),
        lambda args: format_table(args.data, args.split, args.model),
        split="train",
    )


if __name__ == "__main__":
    main()
