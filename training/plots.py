"""The plots of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay, confusion_matrix

from training.names import LABELS


def new_figure(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, outside matplotlib's global state."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def plot_learning_curves(history: list[dict[str, float | str]], path: Path) -> None:
    """Loss and validation AUROC of each epoch, from the rows of history.csv."""
    figure, axes = new_figure("Learning curves", "epoch", "AUROC")
    epochs = range(1, len(history) + 1)
    for column in ("val_auroc", "corrupted_auroc"):
        axes.plot(epochs, [float(row[column]) for row in history], marker=".", label=column)
    loss_axes = axes.twinx()
    loss_axes.set_ylabel("loss")
    for column in ("loss", "val_loss"):
        loss_axes.plot(epochs, [float(row[column]) for row in history], linestyle=":", label=column)
    lines = axes.get_lines() + loss_axes.get_lines()
    axes.legend(lines, [str(line.get_label()) for line in lines], loc="center right")
    save_figure(figure, path)


def plot_roc(labels: np.ndarray, scores: np.ndarray, path: Path, title: str) -> None:
    """The ROC curve of ``scores`` (N,) against ``labels`` (N,) of 0 and 1."""
    figure, axes = new_figure(title, "", "")
    RocCurveDisplay.from_predictions(labels, scores, ax=axes, plot_chance_level=True)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity")
    save_figure(figure, path)


def plot_confusion(labels: np.ndarray, predicted: np.ndarray, path: Path, title: str) -> None:
    """Counts of ``labels`` (N,) by ``predicted`` (N,), both of 0 and 1."""
    figure, axes = new_figure(title, "", "")
    counts = confusion_matrix(labels, predicted, labels=[0, 1])
    ConfusionMatrixDisplay(counts, display_labels=LABELS).plot(ax=axes, cmap="Blues", colorbar=False)
    save_figure(figure, path)


def plot_reliability(curves: dict[str, tuple[np.ndarray, ...]], path: Path, title: str) -> None:
    """Share of PNEUMONIA against mean probability by bin, from ``training.metrics.reliability`` with
    balanced classes. The area of a dot grows with the number of images."""
    figure, axes = new_figure(title, "mean probability", "share with pneumonia, classes balanced")
    axes.plot([0, 1], [0, 1], linestyle=":", color="gray")
    for name, (counts, expected, observed, _) in curves.items():
        (line,) = axes.plot(expected, observed, label=name)
        axes.scatter(expected, observed, s=4 * np.sqrt(counts), color=line.get_color())
    axes.legend()
    save_figure(figure, path)


def plot_learning_rates(rates: np.ndarray, losses: np.ndarray, path: Path) -> None:
    """Smoothed loss (N,) against the learning rate (N,) that it was reached with."""
    figure, axes = new_figure("Learning-rate range test", "learning rate", "loss")
    axes.semilogx(rates, losses)
    save_figure(figure, path)
