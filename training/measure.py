"""What ``python -m training.evaluate`` says of a run, and of a shipped model on films of known label."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np

from cxr import Classifier, Prediction, read_image
from training.dataset import LABELS, SERIES, list_labelled, load_films, parse_path
from training.evaluate import (
    THRESHOLD,
    Calibration,
    auroc_with_interval,
    calibrate,
    compute_metrics,
    format_metrics,
    metrics_with_intervals,
    reliability,
)
from training.plots import plot_confusion, plot_reliability, plot_roc

ENLARGED_PX = (2400, 2000)  # width and height
GRAIN = 8.0  # standard deviation, gray levels
RESOLUTION_FILMS = 200


def evaluate_run(run: Path, data: Path, split: str) -> str:
    """Metrics with intervals of a run's best weights on a split, as text; ROC and confusion matrix are
    saved in the run's folder.

    Raises:
        FileNotFoundError: if the run is not complete.
        ValueError: if the data cannot be read.
    """
    from training.model import load_run
    from training.validation import predict_logits

    config, model = load_run(run)
    saved = json.loads((run / "metrics.json").read_text())["calibration"]
    calibration = Calibration(**saved)
    films = load_films(data, split, config.image_size)
    logits = predict_logits(model, films.images)[:, 0]
    probabilities = calibrate(logits, calibration.temperature, calibration.offset)
    plot_roc(films.labels, probabilities, run / f"roc_{split}.png", f"ROC, {split}")
    confusion = run / f"confusion_{split}.png"
    plot_confusion(films.labels, probabilities >= THRESHOLD, confusion, f"Films, {split}")
    metrics = format_metrics(calibration.measure(films.labels, logits, films.patients))
    return f"{run.name} on {len(films.labels)} films of {split}\n\n{metrics}"


def evaluate_model(name: str, folder: Path, split: str, plots: Path | None) -> str:
    """A shipped model on labelled films, through the runtime: metrics with intervals, the verdicts by
    series, the cause of pneumonia where the file names tell it, and calibration before and after.

    Args:
        name: as ``Classifier.load`` takes it.
        folder, split: as ``list_labelled`` takes them.
        plots: where the reliability diagram goes, if anywhere.

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
    if is_data_set:  # the data set's own layout, whose names tell the series
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


def evaluate_resolution(name: str, folder: Path, split: str) -> str:
    """Verdicts on films enlarged as ``enlarge`` does, against those on the films as they are.

    Args:
        name: as ``Classifier.load`` takes it.
        folder, split: as ``list_labelled`` takes them; ``RESOLUTION_FILMS`` are drawn.
    """
    classifier = Classifier.load(name)
    films = list_labelled(folder, split)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(films))[:RESOLUTION_FILMS]
    agree, moved = [], []
    for index in chosen:
        pixels = read_image(films[index][0])
        small, large = (
            classifier.predict(p) for p in (pixels, read_image(io.BytesIO(enlarge(pixels, int(index)))))
        )
        agree.append(small.label == large.label)
        moved.append(abs(small.probability - large.probability))
    return (
        f"{classifier.card.name} on {len(chosen)} films of {split} enlarged to {ENLARGED_PX[0]} x "
        f"{ENLARGED_PX[1]} px: {np.mean(agree):.1%} keep their label; the probability moves by "
        f"{np.median(moved):.4f} in the median, {np.percentile(moved, 95):.4f} in the 95th percentile"
    )


def enlarge(pixels: np.ndarray, seed: int) -> bytes:
    """A synthetic original of a small film uint8 (H, W): a JPEG of ``ENLARGED_PX`` with grain.

    Args:
        pixels: the film.
        seed: of the grain.
    """
    large = cv2.resize(pixels, ENLARGED_PX, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    grain = np.random.default_rng(seed).standard_normal(large.shape, np.float32) * GRAIN
    noisy = np.clip(np.rint(large + grain), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def _format_series(series: np.ndarray, predictions: list[Prediction]) -> str:
    """A markdown table: films, right verdicts and films in the uncertain band, by series."""
    positive = np.array([p.label == "PNEUMONIA" for p in predictions])
    uncertain = np.array([p.uncertain for p in predictions])
    lines = ["| series | films | right | uncertain |", "|---|---|---|---|"]
    for name in SERIES:
        members = series == name
        if members.any():
            right = positive[members] == (name in ("bacteria", "virus"))
            lines.append(
                f"| {name} | {members.sum()} | {right.mean():.3f} | {uncertain[members].mean():.3f} |"
            )
    return "\n".join(lines)


def _format_cause(
    series: np.ndarray,
    predictions: list[Prediction],
    patients: list[str],
    calibration: dict[str, float] | None,
) -> str:
    """AUROC of virus against bacteria on films with pneumonia, and accuracy where a cause is given."""
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
