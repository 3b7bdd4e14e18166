"""Measure exported models through the runtime that will serve them.

This command measures the models of a folder again and replaces the metrics in their cards::

    python -m export.measure --data data/chest_xray --external data/nih_adults
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr.classifier import MODEL_NAMES, Classifier
from cxr.imaging import read_image
from cxr.model_file import MODELS_DIR
from cxr.novelty import NoveltyModel
from training.calibration import Calibration
from training.config import TrainConfig
from training.flags import from_flat
from training.lung_tests import measure_lungs
from training.masks import load_masked
from training.metrics import auroc_with_interval, share_with_interval
from training.names import list_labelled
from training.sources import LabelledImages
from training.validation import Validation, load_validation

UNSCREENED = "corrupted"  # the novelty limits are for images without corruption


@dataclasses.dataclass(frozen=True)
class Scores:
    """Logits and causes float64 (N,), evidence float32 (N, h, w), embeddings float32 (N, E), and whether
    the lungs are plausible, bool (N,)."""

    logits: np.ndarray
    causes: np.ndarray
    evidence: np.ndarray
    embeddings: np.ndarray
    plausible: np.ndarray


@dataclasses.dataclass(frozen=True)
class ScoredFilms:
    """A model's scores on N labelled images. ``series`` (N,) is None where it is not known."""

    scores: Scores
    labels: np.ndarray
    patients: Sequence[str]
    series: np.ndarray | None


def score(classifier: Classifier, films: Iterable[np.ndarray]) -> Scores:
    """Score images uint8 (H, W) one by one, as users do."""
    predictions = [classifier.predict(film) for film in films]
    return Scores(
        np.array([p.logit for p in predictions]),
        np.array([p.viral_logit for p in predictions]),
        np.stack([p.evidence for p in predictions]),
        np.stack([p.embedding for p in predictions]),
        np.array([p.lungs.are_plausible for p in predictions]),
    )


def score_splits(
    classifier: Classifier, validation: Validation, test: LabelledImages, external: Path | None
) -> dict[str, ScoredFilms]:
    """Score all images that a card reports metrics of.

    Args:
        classifier: the model.
        validation: images and masks of the validation patients.
        test: images and masks of the official test split, uint8 (N, F, F, 2).
        external: a folder of labelled images of another hospital, if there is one.

    Returns:
        ``validation``, ``corrupted``, ``test`` and, where it is given, ``external``.
    """
    splits = {
        "validation": (validation.films.images, validation.films),
        "corrupted": (validation.corrupted, validation.films),
        "test": (test.images, test),
    }
    scored = {
        name: ScoredFilms(score(classifier, images[..., 0]), films.labels, films.patients, films.series)
        for name, (images, films) in splits.items()
    }
    if external:
        listed = list_labelled(external, "test")
        scored["external"] = ScoredFilms(
            score(classifier, (read_image(path) for path, _, _ in listed)),
            np.array([label for _, label, _ in listed]),
            [patient for _, _, patient in listed],
            None,
        )
    return scored


def measure_splits(
    scored: dict[str, ScoredFilms], calibration: Calibration, novelty: NoveltyModel | None
) -> dict[str, dict[str, Any]]:
    """The metrics of a card.

    Args:
        scored: of ``score_splits``.
        calibration: of the model.
        novelty: of the model; without it the images are not screened.
    """
    metrics = {}
    for name, films in scored.items():
        metrics[name] = {
            "films": len(films.labels),
            "pneumonia": int(films.labels.sum()),
            **calibration.measure(films.labels, films.scores.logits, films.patients),
        }
        if films.series is not None:
            metrics[name]["cause_auroc"] = _measure_cause(films)
        if novelty and name != UNSCREENED:
            metrics[name] |= _screen(novelty, films)
    return metrics


def measure_points(
    scored: dict[str, ScoredFilms], calibration: Calibration
) -> dict[str, dict[str, list[float]]]:
    """Sensitivity and specificity at other thresholds on ``validation`` and ``test``, for a card."""
    splits = {name: scored[name] for name in ("validation", "test")}
    return {
        name: calibration.operating_points(films.labels, films.scores.logits)
        for name, films in splits.items()
    }


def _measure_cause(films: ScoredFilms) -> dict[str, float]:
    """AUROC of virus against bacteria on the images with pneumonia."""
    sick = films.labels == 1
    viral, patients = films.series[sick] == "virus", np.array(films.patients)[sick]
    return auroc_with_interval(viral, films.scores.causes[sick], patients)


def _screen(novelty: NoveltyModel, films: ScoredFilms) -> dict[str, Any]:
    """Share of the images that are unfamiliar or refused, and share that are refused. Images that look
    inverted, of which none of these sets has any, are not counted."""
    scores = np.array([novelty.score(embedding) for embedding in films.scores.embeddings])
    refused = (scores > novelty.refused) | ~films.scores.plausible
    return {
        "unfamiliar": share_with_interval(refused | (scores > novelty.unfamiliar), films.patients),
        "refused": share_with_interval(refused, films.patients),
    }


def measure_again(model: Path, data: str, external: Path | None) -> None:
    """Replace the metrics in the card of a model. Calibration and limits stay as they are, and so do the
    figures of another hospital unless its images are given.

    Args:
        model: a .tflite file with its card.
        data: the data set.
        external: as in ``score_splits``.

    Raises:
        ValueError: if the model or the data cannot be used.
    """
    classifier = Classifier.load(model)
    card = classifier.card
    config = from_flat(TrainConfig, card.provenance["training"] | {"data": data})
    validation = load_validation(config)
    train, test = (
        load_masked(data, config.masks, split, config.film_size) for split in ("train", "test")
    )
    scored = score_splits(classifier, validation, test, external)
    calibration = Calibration(card.temperature, card.offset, card.uncertain)
    novelty = card.novelty and NoveltyModel.from_json(card.novelty)
    earlier = {name: metrics for name, metrics in card.metrics.items() if name == "external"}
    dataclasses.replace(
        card,
        provenance=card.provenance | ({"external": external.name} if external else {}),
        metrics=earlier | measure_splits(scored, calibration, novelty),
        operating_points=measure_points(scored, calibration),
        lung_tests={
            "validation": measure_lungs(classifier, validation.films, train),
            "test": measure_lungs(classifier, test, train),
        },
    ).save(model.with_suffix(".json"))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m export.measure", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--data", required=True, help="the data set")
    parser.add_argument("--external", type=Path, help="labelled images of another hospital")
    parser.add_argument("--models", type=Path, default=MODELS_DIR, help="the folder of both models")
    args = parser.parse_args()
    try:
        for name in MODEL_NAMES:
            measure_again(args.models / f"pneumonia_{name}.tflite", args.data, args.external)
    except ValueError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
