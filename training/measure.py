"""Measure a shipped model on films of known label, through the runtime that users have.

Commands (the figures of models/README.md that export does not print)::

    python -m training.measure data/nih_adults
    python -m training.measure data/chest_xray --split val
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cxr import Classifier, read_image
from training.dataset import LABELS, SPLITS, list_films
from training.evaluate import format_metrics, metrics_with_intervals


def list_labelled(folder: Path, split: str) -> list[tuple[Path, int, str]]:
    """Path, label and patient of each film in ``folder``.

    Args:
        folder: ``{NORMAL,PNEUMONIA}/<patient>_<image>.*``, of which all films are taken, or the data
            set's own layout, of which ``split`` is.
        split: train, val or test.

    Raises:
        ValueError: if there is no film.
    """
    if any((folder / label).is_dir() for label in LABELS):
        paths = [(path, i) for i, label in enumerate(LABELS) for path in (folder / label).glob("*")]
        found = [(path, i, path.stem.split("_")[0]) for path, i in sorted(paths)]
    else:
        films = [film for film in list_films(folder) if film.split == split]
        found = [(folder / film.path, film.label, film.patient) for film in films]
    if not found:
        raise ValueError(f"received {folder}, which holds no film in NORMAL or PNEUMONIA")
    return found


def share_in_upper_corners(evidence: np.ndarray) -> float:
    """Share of the maps (N, h, w) whose strongest cell is one of the two upper corners."""
    strongest = evidence.reshape(len(evidence), -1).argmax(axis=1)
    return float(np.isin(strongest, (0, evidence.shape[2] - 1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.measure", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=SPLITS, default="val")
    parser.add_argument("--model", default="int8")
    args = parser.parse_args()
    classifier = Classifier.load(args.model)
    try:
        films = list_labelled(args.folder, args.split)
        predictions = [classifier.predict(read_image(path)) for path, _, _ in films]
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    labels = np.array([label for _, label, _ in films])
    probabilities = np.array([p.probability for p in predictions])
    patients = [patient for _, _, patient in films]
    threshold = classifier.card.threshold
    print(format_metrics(metrics_with_intervals(labels, probabilities, threshold, patients)))
    evidence = np.stack([p.evidence for p in predictions])[labels == 1]
    print(f"strongest cell in an upper corner: {share_in_upper_corners(evidence):.1%} of PNEUMONIA films")


if __name__ == "__main__":
    main()
