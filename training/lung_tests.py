"""Does a score follow the lungs, or what lies around them?

The verdict of a model that reads lungs is undecided when they are erased, stays when everything else is
changed, and goes with them into another image's frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from cxr.classifier import Classifier, Prediction
from cxr.imaging import cut_out
from cxr.lungs import upsample
from training.alterations import (
    alter_background,
    alter_lungs,
    fill_blurred,
    fill_gray,
    fill_noisy,
    transplant_all,
)
from training.metrics import auroc_with_interval, mean_with_interval, share_with_interval
from training.sources import LabelledImages

ERASED = {"lungs_gray": fill_gray, "lungs_blurred": fill_blurred}
COVERED = {
    "background_gray": fill_gray,
    "background_blurred": fill_blurred,
    "background_noisy": fill_noisy,
}
MASK_CELLS = 20  # along each side of a mask that is classified alone

Figures = dict[str, Any]


def measure_lungs(classifier: Classifier, films: LabelledImages, train: LabelledImages) -> Figures:
    """Measure what a model follows.

    The lungs of films without lungs cannot be found, so those of the film as it is are used. In all
    others they are found again.

    Args:
        classifier: the model.
        films: images and masks uint8 (N, F, F, 2), of both classes.
        train: images and masks that a model of the mask alone learns from.

    Returns:
        ``LungTests`` of the card.
    """
    plain = [classifier.predict(film[..., 0]) for film in films.images]
    figures: Figures = {"films": len(films.paths)}
    for name, fill in ERASED.items():
        altered = (alter_lungs(film[..., 0], film[..., 1], fill) for film in films.images)
        answers = [classifier.predict(x, p.lungs) for x, p in zip(altered, plain, strict=True)]
        figures[name] = compare(plain, answers, films)
    for name, fill in COVERED.items():
        altered = (alter_background(film[..., 0], film[..., 1], fill) for film in films.images)
        figures[name] = compare(plain, map(classifier.predict, altered), films)
    moved = transplant_all(films)
    figures["transplanted"] = compare(plain, (classifier.predict(x[..., 0]) for x in moved), films)
    figures |= locate_evidence(plain, films)
    scores = score_masks(train, films)
    figures["mask_auroc"] = auroc_with_interval(films.labels, scores, films.patients)
    return figures


def compare(
    plain: list[Prediction], altered: Iterable[Prediction], films: LabelledImages
) -> dict[str, dict[str, float]]:
    """AUROC and accuracy on altered films, and the share of verdicts that have changed."""
    altered = list(altered)
    verdicts = np.array([p.label for p in altered])
    truth = np.where(films.labels > 0.5, "PNEUMONIA", "NORMAL")
    logits = np.array([p.logit for p in altered])
    changed = verdicts != np.array([p.label for p in plain])
    return {
        "auroc": auroc_with_interval(films.labels, logits, films.patients),
        "accuracy": share_with_interval(verdicts == truth, films.patients),
        "changed": share_with_interval(changed, films.patients),
    }


def locate_evidence(predictions: list[Prediction], films: LabelledImages) -> dict[str, dict[str, float]]:
    """Where the evidence for pneumonia lies: the share of it in the lungs, as they were drawn, and
    how often its strongest place does. It is that of the films with pneumonia that are recognized, or of
    all films with pneumonia if none is."""
    sick = films.labels > 0.5
    recognized = sick & np.array([p.label == "PNEUMONIA" for p in predictions])
    shares, hottest, patients = [], [], []
    for i in np.flatnonzero(recognized if recognized.any() else sick):
        film, prediction, patient = films.images[i], predictions[i], films.patients[i]
        mask = film[..., 1] > 127
        positive = np.maximum(upsample(prediction.evidence, mask.shape), 0.0)
        shares.append(positive[mask].sum() / max(positive.sum(), 1e-9))
        hottest.append(mask.flat[positive.argmax()])
        patients.append(patient)
    return {
        "evidence_inside": mean_with_interval(np.array(shares), patients),
        "hottest_inside": share_with_interval(np.array(hottest), patients),
    }


def score_masks(train: LabelledImages, films: LabelledImages) -> np.ndarray:
    """Scores (N,) of a logistic regression that sees the masks alone: place and shape of the lungs."""

    def shrink(images: np.ndarray) -> np.ndarray:
        cells = (MASK_CELLS, MASK_CELLS)
        return np.stack([cut_out(x[..., 1], cells).ravel() / 255.0 for x in images])

    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
    model.fit(shrink(train.images), train.labels)
    return model.decision_function(shrink(films.images))


def format_lungs(figures: Figures) -> str:
    """A markdown table of the altered films, and a line for each other figure."""

    def show(m: dict[str, float]) -> str:
        return f"{m['value']:.3f} ({m['low']:.3f} .. {m['high']:.3f})"

    names = [*ERASED, *COVERED, "transplanted"]
    rows = [
        {"films": name.replace("_", " "), **{title: show(m) for title, m in figures[name].items()}}
        for name in names
    ]
    lines = [
        f"positive evidence inside the lungs: {show(figures['evidence_inside'])}",
        f"strongest evidence inside the lungs: {show(figures['hottest_inside'])}",
        f"AUROC of the mask alone: {show(figures['mask_auroc'])}",
    ]
    return "\n\n".join([pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True), *lines])
