"""Tests of the evidence map: does it sum up to the logit, depend on the weights, and matter to the logit?

Command::

    python -m experiments.explanation --data data/chest_xray --run runs/NAME
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tf_keras

from cxr import Classifier, preprocess, read_image
from experiments.options import new_parser, run_on_model
from training.metrics import map_correlation
from training.model import build_from, grad_cam, load_run
from training.names import list_labelled

# The mean of the training images shows the rib cage between these shares of height and width.
THORAX_BOX = (0.12, 0.85, 0.08, 0.92)  # top, bottom, left, right
DELETION_FILMS = 120
DELETION_STEPS = 20
BLUR_SHARE = 0.1  # of the side; a deleted pixel is replaced by this blur
RANDOMIZED_FILMS = 60
RESAMPLES = 1000


def evaluate(name: str, data: Path, split: str, run: Path | None) -> str:
    """Measure the evidence of a shipped model, as text.

    Args:
        name: as ``Classifier.load`` takes it.
        data, split: as ``list_labelled`` takes them.
        run: the model's run, for the tests that need gradients. Without it they are left out.

    Raises:
        ValueError: if the model or the films cannot be used.
    """
    classifier = Classifier.load(name)
    size = classifier.card.input_size
    films = list_labelled(data, split)
    images = [preprocess(read_image(path), size)[..., 0] for path, _, _ in films]
    predictions = [classifier.predict(image) for image in images]
    sick = np.array([label == 1 for _, label, _ in films])
    evidence = np.stack([p.evidence for p in predictions])
    gaps = np.abs(evidence.mean((1, 2)) - [p.logit for p in predictions])
    inside = thorax_share(np.ones_like(evidence[:1]))[0]
    outside = 1.0 - thorax_share(np.maximum(evidence[sick], 0.0))
    lines = [
        f"{classifier.card.name} on {len(films)} films of {data.name}, {split}",
        f"completeness: mean of evidence = logit within {gaps.max():.1e} log-odds on every film",
        "positive evidence outside the thorax box, films with pneumonia: "
        f"median {np.median(outside):.1%}; the box leaves out {1.0 - inside:.1%} of the area",
        "strongest cell in an upper corner, films with pneumonia: "
        f"{share_in_upper_corners(evidence[sick]):.1%}; two of {evidence[0].size} cells are "
        f"{2 / evidence[0].size:.1%}",
    ]
    if run:
        drawn = np.random.default_rng(0).permutation(len(images))[:RANDOMIZED_FILMS]
        lines += _test_against_gradients(run, [images[i] for i in drawn], evidence[drawn])
    found = [i for i, p in enumerate(predictions) if sick[i] and p.label == classifier.card.labels[1]]
    chosen = np.random.default_rng(0).permutation(found)[:DELETION_FILMS]
    lines.append(_test_deletion(classifier, [images[i] for i in chosen]))
    return "\n".join(lines)


def share_in_upper_corners(evidence: np.ndarray) -> float:
    """Share of the maps (N, h, w) whose strongest cell is one of the two upper corners."""
    strongest = evidence.reshape(len(evidence), -1).argmax(axis=1)
    return float(np.isin(strongest, (0, evidence.shape[2] - 1)).mean())


def thorax_share(evidence: np.ndarray) -> np.ndarray:
    """Share (N,) of each map (N, h, w) of values >= 0 that lies in ``THORAX_BOX``. A cell on the border
    counts by the part of its area that is inside."""
    top, bottom, left, right = THORAX_BOX
    rows, columns = (
        np.diff(np.clip(np.arange(n + 1) / n, low, high)) * n
        for n, low, high in ((evidence.shape[1], top, bottom), (evidence.shape[2], left, right))
    )
    total = np.maximum(evidence.sum((1, 2)), 1e-9)
    return np.einsum("nhw,h,w->n", evidence, rows, columns) / total


def shifted_evidence(classifier: Classifier, image: np.ndarray) -> np.ndarray:
    """The map at twice the resolution: the image is moved by a quarter of a cell in both directions, and
    the cells of the four predictions are interleaved.

    Args:
        classifier: the model.
        image: uint8 (S, S), at the input size.

    Returns:
        float32 (S/16, S/16).
    """
    size, margin = len(image), 8
    padded = np.pad(image, margin, mode="edge")
    fine = np.zeros((size // 16, size // 16), np.float32)
    for a in (0, 1):
        for b in (0, 1):
            y, x = 2 * margin * a, 2 * margin * b
            moved = np.ascontiguousarray(padded[y : y + size, x : x + size])
            fine[a::2, b::2] = classifier.predict(moved).evidence
    return fine


def deletion_curve(
    classifier: Classifier, image: np.ndarray, importance: np.ndarray, insert: bool
) -> np.ndarray:
    """Probability while the most important pixels are blurred, or restored (Petsiuk et al. 2018). Every
    changed image goes through ``preprocess`` again.

    Args:
        classifier: the model.
        image: uint8 (S, S), at the input size.
        importance: float (h, w), resized to the image; the largest values go first.
        insert: start from the blurred image and restore its pixels.

    Returns:
        float (DELETION_STEPS + 1,), from no pixel changed to all of them.
    """
    size = len(image)
    blurred = cv2.GaussianBlur(image, (0, 0), BLUR_SHARE * size)
    start, end = (blurred, image) if insert else (image, blurred)
    values = cv2.resize(importance.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    rank = np.empty(size * size, int)
    rank[np.argsort(-values, axis=None, kind="stable")] = np.arange(size * size)
    rank = rank.reshape(size, size)
    shares = np.arange(DELETION_STEPS + 1) / DELETION_STEPS
    changed = [np.where(rank < share * size * size, end, start) for share in shares]
    return np.array([classifier.predict(film).probability for film in changed])


def _test_deletion(classifier: Classifier, images: list[np.ndarray]) -> str:
    """A markdown table of deletion and insertion AUC for each order, with intervals over images."""
    side = classifier.card.input_size // 32
    rng = np.random.default_rng(0)
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) / side
    orders: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "evidence": lambda image: classifier.predict(image).evidence,
        "evidence, four shifts": lambda image: shifted_evidence(classifier, image),
        "centre first": lambda _: np.exp(-(y**2 + x**2) * 4),
        "random cells": lambda _: rng.random((side, side)),
    }
    areas = {}
    for name, order in orders.items():
        maps = [order(image) for image in images]
        areas[name] = np.array(
            [
                [
                    deletion_curve(classifier, i, m, insert).mean()
                    for i, m in zip(images, maps, strict=True)
                ]
                for insert in (False, True)
            ]
        )
    rows = []
    for name, values in areas.items():
        cells = []
        for column in values:
            drawn = column[rng.integers(0, len(column), (RESAMPLES, len(column)))].mean(axis=1)
            low, high = np.percentile(drawn, (2.5, 97.5))
            cells.append(f"{column.mean():.3f} ({low:.3f}..{high:.3f})")
        rows.append([name, *cells])
    columns = ["order", "deletion (lower is better)", "insertion (higher is better)"]
    table = pd.DataFrame(rows, columns=columns).to_markdown(index=False, disable_numparse=True)
    return (
        f"deletion and insertion on {len(images)} films with pneumonia that were found, AUC of the "
        f"probability:\n\n{table}"
    )


def _test_against_gradients(run: Path, images: list[np.ndarray], evidence: np.ndarray) -> list[str]:
    """Compare the evidence with Grad-CAM of the run's float network, and Grad-CAM with itself after the
    weights are replaced by random ones from the head downwards (Adebayo et al. 2018)."""
    tf_keras.utils.set_random_seed(0)
    config, model = load_run(run, "pruned_weights.h5")
    films = np.stack(images)[..., None].astype(np.float32)
    reference = grad_cam(model, films)
    lines = [
        "rank correlation with GradientTape Grad-CAM of the float network: median "
        f"{map_correlation(evidence, reference):.3f}"
    ]
    fresh = build_from(config)
    for title, first in (("head", "logit"), ("blocks 7 and up", "block7a"), ("all layers", "")):
        model.load_weights(run / "pruned_weights.h5")
        names = [layer.name for layer in model.layers]
        start = next(i for i, name in enumerate(names) if name.startswith(first))
        for layer, random in zip(model.layers[start:], fresh.layers[start:], strict=True):
            layer.set_weights(random.get_weights())
        changed = grad_cam(model, films)
        lines.append(
            f"rank correlation with itself after random weights in {title}: median "
            f"{map_correlation(reference, changed):.3f}"
        )
    return lines


def main() -> None:
    parser = new_parser("experiments.explanation", __doc__)
    parser.add_argument("--run", type=Path, help="the model's run, for the tests that need gradients")
    run_on_model(parser, lambda args: evaluate(args.model, args.data, args.split, args.run))


if __name__ == "__main__":
    main()
