"""The plots that a run leaves behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, roc_curve


def new_figure(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """A figure of one axes; no global matplotlib state."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def plot_learning_curves(history: list[dict[str, float | str]], path: Path) -> None:
    """Loss and validation AUROC by epoch, from the rows of history.csv."""
    figure, axes = new_figure("Learning curves", "epoch", "AUROC")
    epochs = range(1, len(history) + 1)
    for column in ("val_auroc", "stress_auroc"):
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
    figure, axes = new_figure(title, "1 - specificity", "sensitivity")
    false_positive, true_positive, _ = roc_curve(labels, scores)
    axes.plot(false_positive, true_positive)
    axes.plot([0, 1], [0, 1], linestyle=":", color="gray")
    save_figure(figure, path)


def plot_confusion(labels: np.ndarray, predicted: np.ndarray, path: Path, title: str) -> None:
    """Counts of ``labels`` (N,) by ``predicted`` (N,), both of 0 and 1."""
    figure, axes = new_figure(title, "predicted", "true")
    counts = confusion_matrix(labels, predicted, labels=[0, 1])
    axes.imshow(counts, cmap="Blues")
    names = ("NORMAL", "PNEUMONIA")
    axes.set_xticks((0, 1), names)
    axes.set_yticks((0, 1), names)
    for row in (0, 1):
        for column in (0, 1):
            dark = counts[row, column] > counts.max() / 2
            axes.text(
                column,
                row,
                counts[row, column],
                ha="center",
                va="center",
                color="w" if dark else "k",
            )
    save_figure(figure, path)


def plot_reliability(curves: dict[str, tuple[np.ndarray, ...]], path: Path, title: str) -> None:
    """Share of PNEUMONIA against mean probability by bin, from ``training.evaluate.reliability`` with
    balanced classes; the larger a dot, the more films."""
    figure, axes = new_figure(title, "mean probability", "share with pneumonia, classes balanced")
    axes.plot([0, 1], [0, 1], linestyle=":", color="gray")
    for name, (counts, expected, observed, _) in curves.items():
        (line,) = axes.plot(expected, observed, label=name)
        axes.scatter(expected, observed, s=4 * np.sqrt(counts), color=line.get_color())
    axes.legend()
    save_figure(figure, path)


def plot_learning_rates(rates: np.ndarray, losses: np.ndarray, path: Path) -> None:
    """Smoothed loss (N,) against the learning rate (N,) it was reached at."""
    figure, axes = new_figure("Learning-rate range test", "learning rate", "loss")
    axes.semilogx(rates, losses)
    save_figure(figure, path)
