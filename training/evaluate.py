"""Measure a trained run or a shipped model.

Commands::

    python -m training.evaluate run runs/NAME --data data/chest_xray
    python -m training.evaluate model --data data/nih_adults
    python -m training.evaluate lungs --data data/chest_xray

All measure the validation patients unless ``--split`` says otherwise: the official test split is for the
last report, not for choices. ``run`` measures a trained run. ``model`` measures a shipped model through
the runtime that users have, on a split or on any folder of labelled images, with subgroups, cause and
calibration. ``lungs`` measures whether a shipped model follows the lungs or what lies around them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from cxr import Classifier, Prediction, read_image
from training.calibration import THRESHOLD, Calibration, calibrate
from training.config import TrainConfig
from training.lung_tests import format_lungs, measure_lungs
from training.masks import load_masked
from training.metrics import (
    auroc_with_interval,
    compute_metrics,
    format_metrics,
    metrics_with_intervals,
    reliability,
)
from training.model import load_run
from training.names import LABELS, SERIES, SPLITS, list_labelled, parse_path
from training.plots import plot_confusion, plot_reliability, plot_roc
from training.validation import predict_logits


def evaluate_run(run: Path, data: Path, split: str) -> str:
    """Metrics with intervals of a run's best weights on a split, as text. Saves the ROC and the confusion
    matrix in the run's folder.

    Raises:
        FileNotFoundError: if the run is not complete.
        ValueError: if the data cannot be read.
    """
    config, model = load_run(run)
    saved = json.loads((run / "metrics.json").read_text())["calibration"]
    calibration = Calibration(**saved)
    films = load_masked(data, config.masks, split, config.film_size)
    logits = predict_logits(model, films.images)[:, 0]
    probabilities = calibrate(logits, calibration.temperature, calibration.offset)
    plot_roc(films.labels, probabilities, run / f"roc_{split}.png", f"ROC, {split}")
    confusion = run / f"confusion_{split}.png"
    plot_confusion(films.labels, probabilities >= THRESHOLD, confusion, f"Films, {split}")
    metrics = format_metrics(calibration.measure(films.labels, logits, films.patients))
    return f"{run.name} on {len(films.labels)} films of {split}\n\n{metrics}"


def evaluate_model(name: str, folder: Path, split: str, plots: Path | None) -> str:
    """Measure a shipped model on labelled images through the runtime: metrics with intervals, verdicts by
    series, cause of pneumonia if the file names give it, and calibration before and after.

    Args:
        name: as ``Classifier.load`` takes it.
        folder, split: as ``list_labelled`` takes them.
        plots: folder for the reliability diagram, if it is wanted.

    Raises:
        ValueError: if the model cannot be used, or a film cannot be read.
    """
    classifier = Classifier.load(name)
    card = classifier.card
    films = list_labelled(folder, split)
    predictions = [classifier.predict(read_image(path)) for path, _, _ in films]
    labels = np.array([label for _, label, _ in films])
    if len(set(labels)) < 2:
        raise ValueError(f"received {folder} with films of one label; accepted are both")
    patients = [patient for _, _, patient in films]
    probabilities = np.array([p.probability for p in predictions])
    metrics = metrics_with_intervals(labels, probabilities, card.threshold, card.uncertain, patients)
    is_data_set = not (folder / LABELS[0]).is_dir()
    where = split if is_data_set else folder.name
    parts = [f"{card.name} on {len(films)} films of {where}\n\n{format_metrics(metrics)}"]
    if is_data_set:  # only the data set's own file names give the series
        series = np.array([parse_path(path.as_posix()).series for path, _, _ in films])
        parts.append(_format_series(series, predictions))
        parts.append(_format_cause(series, predictions, patients, card.cause))
    raw = calibrate(np.array([p.logit for p in predictions]), 1.0, 0.0)
    before = compute_metrics(labels, raw, card.threshold, card.uncertain)
    parts.append(
        f"before calibration: Brier score {before['brier']:.4f}, "
        f"expected calibration error {before['ece']:.4f}, and with both classes balanced "
        f"{before['balanced_brier']:.4f} and {before['balanced_ece']:.4f}"
    )
    if plots:
        curves = {
            "uncalibrated": reliability(labels, raw),
            "calibrated": reliability(labels, probabilities),
        }
        plot_reliability(curves, plots / f"reliability_{split}.png", f"{card.name}, {split}")
    return "\n\n".join(parts)


def evaluate_lungs(name: str, data: Path, masks: str, split: str) -> str:
    """Measure whether a shipped model follows the lungs, as text.

    Args:
        name: as ``Classifier.load`` takes it.
        data, masks, split: as ``load_masked`` takes them.

    Raises:
        ValueError: if the model, the data or the masks cannot be used.
    """
    classifier = Classifier.load(name)
    size = TrainConfig().film_size
    films, train = (load_masked(data, masks, part, size) for part in (split, "train"))
    figures = format_lungs(measure_lungs(classifier, films, train))
    return f"{classifier.card.name} on {len(films.paths)} films of {split}\n\n{figures}"


def _format_series(series: np.ndarray, predictions: list[Prediction]) -> str:
    """A markdown table of each series: images, correct verdicts and images in the uncertain band."""
    positive = np.array([p.label == "PNEUMONIA" for p in predictions])
    uncertain = np.array([p.uncertain for p in predictions])
    rows = []
    for name in SERIES:
        members = series == name
        if members.any():
            right = positive[members] == (name in ("bacteria", "virus"))
            shares = {"right": right.mean(), "uncertain": uncertain[members].mean()}
            rows.append({"series": name, "films": members.sum()})
            rows[-1] |= {column: f"{share:.3f}" for column, share in shares.items()}
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def _format_cause(
    series: np.ndarray,
    predictions: list[Prediction],
    patients: list[str],
    calibration: dict[str, float] | None,
) -> str:
    """AUROC of virus against bacteria on images with pneumonia, and accuracy if the card has a cause."""
    sick = np.isin(series, ("bacteria", "virus"))
    viral = series[sick] == "virus"
    scores = np.array([p.viral_logit for p in predictions])[sick]
    auroc = auroc_with_interval(viral, scores, np.array(patients)[sick])
    text = (
        f"virus against bacteria: AUROC {auroc['value']:.4f} ({auroc['low']:.4f} .. {auroc['high']:.4f})"
    )
    if not calibration:
        return text
    chances = calibrate(scores, **calibration)
    found = compute_metrics(viral, chances, THRESHOLD, (THRESHOLD, THRESHOLD))
    return (
        f"{text}, virus recognized {found['sensitivity']:.3f}, bacteria {found['specificity']:.3f}, "
        f"balanced Brier score {found['balanced_brier']:.4f}, "
        f"balanced expected calibration error {found['balanced_ece']:.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description=__doc__.split("\n", maxsplit=1)[0]
    )
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="a trained run")
    run.add_argument("run", type=Path, help="runs/NAME of training.train")
    run.set_defaults(act=lambda a: evaluate_run(a.run, a.data, a.split))
    model = commands.add_parser("model", help="a shipped model, on a split or on any labelled folder")
    model.set_defaults(act=lambda a: evaluate_model(a.model, a.data, a.split, a.plots))
    lungs = commands.add_parser("lungs", help="a shipped model, on films with altered lungs or frames")
    lungs.set_defaults(act=lambda a: evaluate_lungs(a.model, a.data, a.masks, a.split))
    lungs.add_argument("--masks", default="", help="lung_masks beside the data set unless given")
    for command in (model, lungs):
        command.add_argument("--model", default="int8", help="int8, float32 or FILE.tflite")
    model.add_argument("--plots", type=Path, help="folder for the reliability diagram")
    for command in (run, model, lungs):
        command.add_argument("--data", type=Path, required=True, help="the data set, or labelled images")
        command.add_argument("--split", choices=SPLITS, default="val", help="val unless given")
    args = parser.parse_args()
    try:
        print(args.act(args))
    except (ValueError, FileNotFoundError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
