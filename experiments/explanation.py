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
from scipy.stats import spearmanr

from cxr import Classifier, Lungs, Prediction, preprocess, read_image
from cxr.classifier import EVIDENCE_SIDE, STRIDE, spread_evidence
from cxr.imaging import WHOLE
from experiments.options import new_parser, run_on_model
from export.structure import load_exported
from training.metrics import map_correlation
from training.model import grad_cam
from training.names import list_labelled

FILM_PX = 224  # side of the images that are changed
DELETION_FILMS = 120
DELETION_STEPS = 20
BLUR_SHARE = 0.1  # of the side; a deleted pixel is replaced by this blur
RANDOMIZED_FILMS = 60
RESAMPLES = 1000


def evaluate(name: str, data: Path, split: str, run: Path | None) -> str:
    """Measure the evidence of a shipped model, as text. ``training.evaluate lungs`` says where it lies.

    Args:
        name: as ``Classifier.load`` takes it.
        data, split: as ``list_labelled`` takes them.
        run: the model's run, for the tests that need gradients. Without it they are left out.

    Raises:
        ValueError: if the model or the films cannot be used.
    """
    classifier = Classifier.load(name)
    films = list_labelled(data, split)
    images = [preprocess(read_image(path), FILM_PX)[..., 0] for path, _, _ in films]
    predictions = [classifier.predict(image) for image in images]
    sick = np.array([label == 1 for _, label, _ in films])
    gaps = np.array([abs(p.evidence.mean(dtype=np.float64) - p.logit) for p in predictions])
    lines = [
        f"{classifier.card.name} on {len(films)} films of {data.name}, {split}",
        f"completeness: mean of evidence = logit within {gaps.max():.1e} log-odds on every film",
        _average_rows(classifier, predictions, sick),
    ]
    if run:
        drawn = np.random.default_rng(0).permutation(len(images))[:RANDOMIZED_FILMS]
        lines += _test_against_gradients(
            run, [images[i] for i in drawn], [predictions[i] for i in drawn], classifier.card.input_size
        )
    found = [i for i, p in enumerate(predictions) if sick[i] and p.label == classifier.card.labels[1]]
    chosen = np.random.default_rng(0).permutation(found)[:DELETION_FILMS]
    lines.append(
        _test_deletion(classifier, [images[i] for i in chosen], [predictions[i] for i in chosen])
    )
    return "\n".join(lines)


def deletion_curve(
    classifier: Classifier, image: np.ndarray, lungs: Lungs, importance: np.ndarray, insert: bool
) -> np.ndarray:
    """Probability while the most important pixels are blurred, or restored (Petsiuk et al. 2018). Every
    changed image goes through ``preprocess`` again, with the same lungs.

    Args:
        classifier: the model.
        image: uint8 (S, S).
        lungs: where they are.
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
    return np.array([classifier.predict(film, lungs).probability for film in changed])


def _average_rows(classifier: Classifier, predictions: list[Prediction], sick: np.ndarray) -> str:
    """A markdown table of the weight of each row of cells, and of its mean evidence in both classes."""
    cells = np.stack([classifier.network.run(p.image)[0]["evidence"][0, :, :, 0] for p in predictions])
    weights = [spread_evidence(c, p.lungs)[1] for c, p in zip(cells, predictions, strict=True)]
    rows = np.mean(weights, axis=0).sum(axis=1)
    normal, pneumonia = (cells[chosen].mean(axis=(0, 2)) for chosen in (~sick, sick))
    table = pd.DataFrame(
        {
            "row of cells": ["highest", *range(2, len(rows)), "lowest"],
            "weight": [f"{100 * share:.0f} %" for share in rows],
            "NORMAL": [f"{value:+.1f}" for value in normal],
            "PNEUMONIA": [f"{value:+.1f}" for value in pneumonia],
        }
    ).to_markdown(index=False, disable_numparse=True)
    return f"mean evidence of the cells of the lungs' box, log-odds:\n\n{table}\n"


def _test_deletion(
    classifier: Classifier, images: list[np.ndarray], predictions: list[Prediction]
) -> str:
    """A markdown table of deletion and insertion AUC for each order, with intervals over images."""
    rng = np.random.default_rng(0)
    side = EVIDENCE_SIDE
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) / side
    centre = np.exp(-(y**2 + x**2) * 4)
    orders: dict[str, Callable[[Prediction], np.ndarray]] = {
        "evidence": lambda p: p.evidence,
        "lungs, centre first": lambda p: centre * (p.evidence != 0),
        "lungs, random places": lambda p: _draw_places(rng, side) * (p.evidence != 0),
        "film, random places": lambda _: _draw_places(rng, side),
    }
    areas = {}
    for name, order in orders.items():
        maps = [order(prediction) for prediction in predictions]
        areas[name] = np.array(
            [
                [
                    deletion_curve(classifier, i, p.lungs, m, insert).mean()
                    for i, p, m in zip(images, predictions, maps, strict=True)
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


def _draw_places(rng: np.random.Generator, side: int) -> np.ndarray:
    """Random values above 0 that are as coarse as the evidence, float32 (side, side)."""
    cells = rng.uniform(0.1, 1.0, (8, 8)).astype(np.float32)
    return cv2.resize(cells, (side, side), interpolation=cv2.INTER_LINEAR)


def _test_against_gradients(
    run: Path, images: list[np.ndarray], predictions: list[Prediction], size: int
) -> list[str]:
    """Compare the evidence with Grad-CAM of the run's float network, and Grad-CAM with itself after the
    weights are replaced by random ones from the head downwards (Adebayo et al. 2018). The first
    correlation is over the lungs, the others over the whole box."""
    tf_keras.utils.set_random_seed(0)
    _, model = load_exported(run)
    lungs = [p.lungs for p in predictions]
    views = np.stack(
        [
            np.concatenate([preprocess(image, size, found.box or WHOLE)] * 2, axis=-1)
            for image, found in zip(images, lungs, strict=True)
        ]
    ).astype(np.float32)

    def spread(cells: np.ndarray) -> list[np.ndarray]:
        maps = [spread_evidence(c, found)[0] for c, found in zip(cells, lungs, strict=True)]
        return [m[p.evidence != 0] for m, p in zip(maps, predictions, strict=True)]

    bias = model.get_layer("logit").get_weights()[1]
    cells = (size // STRIDE) ** 2
    reference = grad_cam(model, views)
    shown = [p.evidence[p.evidence != 0] for p in predictions]
    correlation = _correlate(shown, spread(reference * cells + bias))
    lines = [
        f"rank correlation with GradientTape Grad-CAM of the float network: median {correlation:.3f}"
    ]
    trained, fresh = model.get_weights(), tf_keras.models.clone_model(model)
    for title, first in (("head", "logit"), ("blocks 7 and up", "block7a"), ("all layers", "")):
        model.set_weights(trained)
        names = [layer.name for layer in model.layers]
        start = next(i for i, name in enumerate(names) if name.startswith(first))
        for layer, random in zip(model.layers[start:], fresh.layers[start:], strict=True):
            layer.set_weights(random.get_weights())
        changed = grad_cam(model, views)
        lines.append(
            f"rank correlation with itself after random weights in {title}: median "
            f"{map_correlation(reference, changed):.3f}"
        )
    return lines


def _correlate(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """Spearman's correlation of two values at each place, the median over the images."""
    pairs = zip(first, second, strict=True)
    return float(np.median([spearmanr(a, b).statistic for a, b in pairs]))


def main() -> None:
    parser = new_parser("experiments.explanation", __doc__)
    parser.add_argument("--run", type=Path, help="the model's run, for the tests that need gradients")
    run_on_model(parser, lambda args: evaluate(args.model, args.data, args.split, args.run))


if __name__ == "__main__":
    main()
