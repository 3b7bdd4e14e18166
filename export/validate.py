"""Measure exported models through the runtime that will serve them; fill in their cards."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from cxr.classifier import Classifier
from cxr.latency import measure_latency
from cxr.model_card import ModelCard
from training.dataset import LABELS, Films
from training.evaluate import THRESHOLD, calibrate, fit_calibration, metrics_with_intervals
from training.train import Validation

MAX_AUROC_LOSS = 0.01
PREVALENCE = 0.5  # fit_calibration weights both classes alike
EVIDENCE_PERCENTILE = 95.0  # of the cells of validation PNEUMONIA films: drawn at full color
TABLE_START, TABLE_END = "<!-- table: start -->", "<!-- table: end -->"


class QuantizationError(RuntimeError):
    """The int8 model lost too much; the message has the figures."""


@dataclasses.dataclass(frozen=True)
class Report:
    """A measured model: the flatbuffer, its card, its logits float64 (N,) on the test films."""

    model: bytes
    card: ModelCard
    test_logits: np.ndarray

    @property
    def validation_auroc(self) -> float:
        """AUROC on the validation patients' films as they are."""
        return self.card.metrics["validation"]["auroc"]["value"]

    @property
    def test_labels(self) -> np.ndarray:
        """bool (N,), the model's verdicts on the test films."""
        card = self.card
        return calibrate(self.test_logits, card.temperature, card.offset) >= card.threshold


def measure_model(
    model: bytes, variant: str, provenance: dict[str, Any], validation: Validation, test: Films
) -> Report:
    """Calibrate on the validation patients, plain and stressed, then measure on every split.

    Args:
        model: a flatbuffer of the contract.
        variant: float32 or int8.
        provenance: how it was made, for the card.
        validation: what calibration and evidence scale come from.
        test: what is reported and decides nothing.
    """
    card = ModelCard(
        name=f"pneumonia_{variant}",
        variant=variant,
        labels=LABELS,
        input_size=validation.films.images.shape[1],
        temperature=1.0,
        offset=0.0,
        prevalence=PREVALENCE,
        threshold=THRESHOLD,
        evidence_scale=1.0,
        metrics={},
        novelty=None,
        provenance=provenance,
        sha256=hashlib.sha256(model).hexdigest(),
        size_bytes=len(model),
    )
    classifier = Classifier(model, card, num_threads=1)
    clean, evidence = _score(classifier, validation.films.images)
    stressed, _ = _score(classifier, validation.stressed)
    test_logits, _ = _score(classifier, test.images)
    labels = validation.films.labels
    temperature, offset = fit_calibration(
        np.concatenate([clean, stressed]), np.concatenate([labels, labels])
    )
    splits = {
        "validation": (clean, labels, validation.films.patients),
        "stress": (stressed, labels, validation.films.patients),
        "test": (test_logits, test.labels, test.patients),
    }
    metrics = {
        name: {
            "films": len(y),
            **metrics_with_intervals(y, calibrate(z, temperature, offset), THRESHOLD, patients),
        }
        for name, (z, y, patients) in splits.items()
    }
    scale = max(float(np.percentile(evidence[labels == 1], EVIDENCE_PERCENTILE)), 1e-3)
    card = dataclasses.replace(
        card, temperature=temperature, offset=offset, evidence_scale=scale, metrics=metrics
    )
    return Report(model, card, test_logits)


def check_loss(float32_auroc: float, int8_auroc: float) -> None:
    """Raise ``QuantizationError`` where int8 falls more than ``MAX_AUROC_LOSS`` below float32."""
    if not int8_auroc >= float32_auroc - MAX_AUROC_LOSS:
        raise QuantizationError(
            f"int8 reaches a validation AUROC of {int8_auroc:.4f}, float32 {float32_auroc:.4f}: a loss "
            f"of {float32_auroc - int8_auroc:.4f}, where {MAX_AUROC_LOSS} is accepted. Nothing written."
        )


def format_table(reports: dict[str, Report]) -> str:
    """A markdown table: a model a row; latencies taken in turns in one run, as ratios to float32.

    Args:
        reports: by row title; must hold ``float32``, the reference of agreement and latency.
    """
    classifiers = [Classifier(r.model, r.card, num_threads=1) for r in reports.values()]
    film = np.tile(np.arange(224, dtype=np.uint8), (224, 1))
    times = measure_latency(classifiers, film, repeats=100, warmup=10)
    medians = {name: latency.median_ms("inference") for name, latency in zip(reports, times, strict=True)}
    reference = reports["float32"]
    lines = [
        "| model | size | gzipped | latency / float32 | validation AUROC | stress AUROC | test AUROC "
        "| test accuracy | test sensitivity | test specificity | labels as float32 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, report in reports.items():
        metrics = report.card.metrics
        agreement = np.mean(report.test_labels == reference.test_labels)
        cells = [
            name,
            f"{len(report.model) / 1e6:.2f} MB",
            f"{len(gzip.compress(report.model)) / 1e6:.2f} MB",
            f"{medians[name] / medians['float32']:.2f}",
            *(f"{metrics[split]['auroc']['value']:.4f}" for split in ("validation", "stress")),
            *(
                f"{m['value']:.4f} ({m['low']:.3f}..{m['high']:.3f})"
                for m in (metrics["test"][k] for k in ("auroc", "accuracy", "sensitivity", "specificity"))
            ),
            f"{agreement:.1%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_models(out: Path, reports: dict[str, Report], table: str) -> None:
    """Write both models and their cards, and put the table between its two markers in README.md.

    Raises:
        ValueError: if README.md exists without the markers; nothing is written then.
    """
    readme = out / "README.md"
    text = readme.read_text() if readme.exists() else f"{TABLE_START}\n{TABLE_END}\n"
    before, _, rest = text.partition(TABLE_START)
    _, marker, after = rest.partition(TABLE_END)
    if not marker:
        raise ValueError(f"received {readme} without the markers {TABLE_START} and {TABLE_END}")
    out.mkdir(parents=True, exist_ok=True)
    for variant in ("float32", "int8"):
        path = out / f"pneumonia_{variant}.tflite"
        path.write_bytes(reports[variant].model)
        reports[variant].card.save(path.with_suffix(".json"))
    readme.write_text(f"{before}{TABLE_START}\n{table}\n{TABLE_END}{after}")


def _score(classifier: Classifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits float64 (N,) and evidence float32 (N, h, w), film by film as users run it."""
    predictions = [classifier.predict(image[..., 0]) for image in images]
    return np.array([p.logit for p in predictions]), np.stack([p.evidence for p in predictions])
