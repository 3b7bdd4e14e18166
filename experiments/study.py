"""Shared by the studies of the export: a run, the images that models are compared on, and their table.

The official test split is not read.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from cxr.classifier import Classifier
from cxr.latency import measure_latency
from cxr.lungs import LungFinder
from export.measure import score
from export.quantize import FLOAT_LAYERS, Range, choose_calibration_films, vary
from export.validate import blank_card
from training.calibration import THRESHOLD, Calibration, calibrate
from training.config import TrainConfig
from training.masks import load_masked
from training.metrics import map_correlation
from training.model import load_config
from training.sources import LabelledImages
from training.validation import Validation, load_validation
from training.views import view_films

HEAD = FLOAT_LAYERS[:1]
ALL_BUT_HEAD = (*HEAD, ".*/(rescaling|normalization).*")  # the float layers when all else is int8


@dataclasses.dataclass(frozen=True)
class Study:
    """A run and the images that its exports are compared on."""

    run: Path
    config: TrainConfig
    train: LabelledImages  # images and masks at ``config.film_size``
    calibration_films: np.ndarray  # views uint8 (N, S, S, 2)
    validation: Validation
    finder: LungFinder

    def classifier(self, model: bytes, num_threads: int = 1) -> Classifier:
        """A flatbuffer in the runtime, without calibration."""
        card = blank_card(model, "study", self.config.image_size, self.finder, {})
        return Classifier(model, card, self.finder, num_threads)


def load_study(run: Path, data: str | None) -> Study:
    """The study of a run.

    Args:
        run: ``runs/NAME`` of training.train and export.
        data: the data set, if it is no longer at the run's own path.

    Raises:
        FileNotFoundError: if the run is not complete.
        ValueError: if the data cannot be used.
    """
    config = load_config(run)
    config = dataclasses.replace(config, data=data or config.data)
    train = load_masked(config.data, config.masks, "train", config.film_size)
    films = view_films(vary(choose_calibration_films(train)), config.image_size)
    return Study(run, config, train, films, load_validation(config), LungFinder.load())


def run_study(parser: argparse.ArgumentParser, study: Callable[[Study, argparse.Namespace], str]) -> None:
    """Parse ``--run`` and ``--data`` beside the parser's own options, and print the study's table."""
    parser.add_argument("--run", type=Path, required=True, help="runs/NAME of training.train and export")
    parser.add_argument("--data", help="the data set, if it has moved since training")
    args = parser.parse_args()
    try:
        print(study(load_study(args.run, args.data), args))
    except (ValueError, FileNotFoundError) as error:
        parser.exit(1, f"{error}\n")


def format_models(study: Study, models: dict[str, bytes]) -> str:
    """A markdown table with one row for each model. Agreement and map correlation are with the nearest
    float32 row above."""
    films, labels = study.validation.films, study.validation.films.labels
    classifiers = [study.classifier(model) for model in models.values()]
    prediction = classifiers[0].predict(films.images[0, ..., 0])
    measured = measure_latency(classifiers, prediction, repeats=60, warmup=5)
    times = [latency.median_ms("classifier") for latency in measured]
    rows = []
    for (name, model), classifier, time_ms in zip(models.items(), classifiers, times, strict=True):
        plain, corrupted = (
            score(classifier, i[..., 0]) for i in (films.images, study.validation.corrupted)
        )
        calibration = Calibration.fit(plain.logits, corrupted.logits, labels)
        verdicts = np.concatenate(
            [
                calibrate(s.logits, calibration.temperature, calibration.offset) >= THRESHOLD
                for s in (plain, corrupted)
            ]
        )
        if name.endswith("float32"):
            reference, reference_maps, reference_ms = verdicts, plain.evidence, time_ms
        rows.append(
            {
                "model": name,
                "validation AUROC": f"{roc_auc_score(labels, plain.logits):.4f}",
                "corrupted AUROC": f"{roc_auc_score(labels, corrupted.logits):.4f}",
                "labels as float32": f"{np.mean(verdicts == reference):.1%}",
                "map correlation": f"{map_correlation(plain.evidence, reference_maps):.3f}",
                "size, MB": f"{len(model) / 1e6:.2f}",
                "gzipped, MB": f"{len(gzip.compress(model)) / 1e6:.2f}",
                "latency / float32": f"{time_ms / reference_ms:.2f}",
            }
        )
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def round_to_int8(values: np.ndarray, limits: Range) -> np.ndarray:
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    step = max((high - low) / 255.0, 1e-12)
    return np.rint((np.clip(values, low, high) - low) / step) * step + low
