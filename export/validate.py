"""Calibrate exported models, write their cards, and refuse a model that is not good enough."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.classifier import Classifier
from cxr.latency import measure_latency
from cxr.lungs import FILE, LungFinder
from cxr.model_card import ModelCard
from export.measure import measure_points, measure_splits, score, score_splits
from training.calibration import THRESHOLD, Calibration, calibrate, fit_calibration
from training.lung_tests import measure_lungs
from training.metrics import map_correlation
from training.names import LABELS
from training.novelty import fit_novelty
from training.sources import LabelledImages
from training.validation import Validation
from training.views import view_films

VERSION = "2.4.0"  # of the shipped models: raise it with every export that changes them
MAX_AUROC_LOSS = 0.01
MAX_ERASED_AUROC = 0.65  # on validation patients, with the lungs erased
MIN_TRANSPLANTED_AUROC = 0.95  # on validation patients, with the lungs in another frame
PREVALENCE = 0.5  # fit_calibration gives both classes the same weight
MIN_CAUSE_AUROC = 0.75  # halfway between guessing and certainty; see gate_cause
EVIDENCE_PERCENTILE = 95.0  # of the cells of validation PNEUMONIA films: drawn at full color
DATA = (
    "Kermany et al. 2018, Labeled Optical Coherence Tomography and Chest X-Ray Images for "
    "Classification (CC BY 4.0): children of 1 to 5 years, one hospital"
)
MASKS = "V7 Labs, COVID-19 X-ray dataset: lungs drawn by people (CC BY 4.0)"
PACKAGES = (
    "tensorflow",
    "tf-keras",
    "tensorflow-model-optimization",
    "ai-edge-quantizer",
    "ai-edge-litert",
)
PAGE = "README.md"  # beside the models; it has the table between two markers
TABLE_START, TABLE_END = "<!-- table: start -->", "<!-- table: end -->"


class QuantizationError(RuntimeError):
    """The int8 model is too much worse than float32; the message has the figures."""


class ShortcutError(RuntimeError):
    """The model follows what lies around the lungs; the message has the figures."""


@dataclasses.dataclass(frozen=True)
class Films:
    """What a model is measured on.

    Attributes:
        train: images and masks uint8 (N, F, F, 2), for novelty and for the AUROC of masks alone.
        validation: what calibration and evidence scale are fitted on.
        test: images and masks that are only reported on.
        external: a folder of labelled images of another hospital, also only reported on.
    """

    train: LabelledImages
    validation: Validation
    test: LabelledImages
    external: Path | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """A measured model: the flatbuffer, its card, and on the test films its logits float64 (N,) and
    evidence float32 (N, h, w)."""

    model: bytes
    card: ModelCard
    test_logits: np.ndarray
    test_evidence: np.ndarray

    @property
    def validation_auroc(self) -> float:
        """AUROC on the validation patients, without corruption."""
        return self.card.metrics["validation"]["auroc"]["value"]

    @property
    def test_labels(self) -> np.ndarray:
        """bool (N,), the model's verdicts on the test films."""
        card = self.card
        return calibrate(self.test_logits, card.temperature, card.offset) >= card.threshold


def blank_card(
    model: bytes, variant: str, input_size: int, finder: LungFinder, provenance: dict[str, Any]
) -> ModelCard:
    """The card of a model that has not been calibrated or measured."""
    return ModelCard(
        name=f"pneumonia_{variant}",
        version=VERSION,
        variant=variant,
        labels=LABELS,
        input_size=input_size,
        temperature=1.0,
        offset=0.0,
        prevalence=PREVALENCE,
        threshold=THRESHOLD,
        uncertain=(THRESHOLD, THRESHOLD),
        cause=None,
        evidence_scale=1.0,
        metrics={},
        operating_points={},
        lung_tests={},
        lungs_sha256=finder.card.sha256,
        novelty=None,
        provenance=provenance,
        sha256=hashlib.sha256(model).hexdigest(),
        size_bytes=len(model),
    )


def measure_model(
    model: bytes,
    variant: str,
    input_size: int,
    provenance: dict[str, Any],
    finder: LungFinder,
    films: Films,
    in_full: bool = True,
) -> Report:
    """Calibrate on the validation patients, then measure on every split.

    Args:
        model: a flatbuffer of the contract.
        variant: float32 or int8.
        input_size: side of its input, px.
        provenance: how it was made, for the card.
        finder: of the lungs.
        films: to fit and to measure on.
        in_full: fit novelty and measure what the model follows, too.
    """
    card = blank_card(model, variant, input_size, finder, provenance)
    classifier = Classifier(model, card, finder, num_threads=1)
    validation, test = films.validation, films.test
    scored = score_splits(classifier, validation, test, films.external)
    plain, corrupted, tested = (scored[name].scores for name in ("validation", "corrupted", "test"))
    labels = validation.films.labels
    calibration = Calibration.fit(plain.logits, corrupted.logits, labels)
    novelty = None
    if in_full:
        seen = score(classifier, films.train.images[..., 0])
        views = view_films(films.train.images, input_size)[..., :1]
        novelty = fit_novelty(seen.embeddings, views, plain.embeddings)
    sick = labels == 1
    temperature, offset = fit_calibration(plain.causes[sick], validation.films.series[sick] == "virus")
    scale = max(float(np.percentile(plain.evidence[sick], EVIDENCE_PERCENTILE)), 1e-3)
    card = dataclasses.replace(
        card,
        temperature=calibration.temperature,
        offset=calibration.offset,
        uncertain=calibration.uncertain,
        cause={"temperature": temperature, "offset": offset},
        evidence_scale=scale,
        metrics=measure_splits(scored, calibration, novelty),
        operating_points=measure_points(scored, calibration),
        novelty=novelty and novelty.to_json(),
    )
    if in_full:
        classifier = Classifier(model, card, finder, num_threads=1)
        splits = {"validation": validation.films, "test": test}
        lung_tests = {
            name: measure_lungs(classifier, members, films.train) for name, members in splits.items()
        }
        card = dataclasses.replace(card, lung_tests=lung_tests)
    return Report(model, card, tested.logits, tested.evidence)


def digest(films: LabelledImages) -> str:
    """sha256 of the paths inside the data set and of the pixels and masks, in the order of the paths. It
    is the same for images, shards and pairs of records, although their files differ."""
    checksum = hashlib.sha256()
    for i in np.argsort(films.paths):
        checksum.update(films.paths[i].encode() + b"\0" + films.images[i].tobytes())
    return checksum.hexdigest()


def gate_cause(reports: dict[str, Report]) -> dict[str, Report]:
    """Remove the cause from all reports unless every model recognizes it well enough.

    Well enough means that the lower end of the 95 % interval of the AUROC on the validation patients
    reaches ``MIN_CAUSE_AUROC``. This is less than a verdict would need, because the cause is a secondary
    answer that is shown with its own AUROC.
    """
    aurocs = [report.card.metrics["validation"]["cause_auroc"] for report in reports.values()]
    if all(auroc["low"] >= MIN_CAUSE_AUROC for auroc in aurocs):
        return reports
    return {
        name: dataclasses.replace(report, card=dataclasses.replace(report.card, cause=None))
        for name, report in reports.items()
    }


def check_loss(float32_auroc: float, int8_auroc: float) -> None:
    """Raise ``QuantizationError`` where int8 falls more than ``MAX_AUROC_LOSS`` below float32."""
    if not int8_auroc >= float32_auroc - MAX_AUROC_LOSS:
        raise QuantizationError(
            f"int8 reaches a validation AUROC of {int8_auroc:.4f}, float32 {float32_auroc:.4f}: a loss "
            f"of {float32_auroc - int8_auroc:.4f}, where {MAX_AUROC_LOSS} is accepted. Nothing written."
        )


def check_lungs(report: Report) -> None:
    """Raise ``ShortcutError`` where a model answers without lungs, or does not follow them."""
    tests = report.card.lung_tests["validation"]
    erased = max(tests[name]["auroc"]["value"] for name in ("lungs_gray", "lungs_blurred"))
    moved = tests["transplanted"]["auroc"]["value"]
    if not (erased <= MAX_ERASED_AUROC and moved >= MIN_TRANSPLANTED_AUROC):
        raise ShortcutError(
            f"{report.card.variant} reaches a validation AUROC of {erased:.3f} without lungs and of "
            f"{moved:.3f} with lungs in another frame; accepted are {MAX_ERASED_AUROC} or less and "
            f"{MIN_TRANSPLANTED_AUROC} or more. Nothing written."
        )


def format_table(reports: dict[str, Report], finder: LungFinder) -> str:
    """A markdown table with one row for each model. Latencies are measured in turns and given as ratios
    to float32.

    Args:
        reports: by row title; must include ``float32``, the reference for agreement and latency.
        finder: of the lungs.
    """
    classifiers = [Classifier(r.model, r.card, finder, num_threads=1) for r in reports.values()]
    film = np.tile(np.arange(224, dtype=np.uint8), (224, 1))
    prediction = classifiers[0].predict(film)
    times = measure_latency(classifiers, prediction, repeats=100, warmup=10)
    medians = {
        name: latency.median_ms("classifier") for name, latency in zip(reports, times, strict=True)
    }
    reference = reports["float32"]
    rows = []
    for name, report in reports.items():
        metrics = report.card.metrics
        row = {
            "model": name,
            "size": f"{len(report.model) / 1e6:.2f} MB",
            "gzipped": f"{len(gzip.compress(report.model)) / 1e6:.2f} MB",
            "latency / float32": f"{medians[name] / medians['float32']:.2f}",
        }
        for split in ("validation", "corrupted"):
            row[f"{split} AUROC"] = f"{metrics[split]['auroc']['value']:.4f}"
        for title in ("AUROC", "accuracy", "sensitivity", "specificity"):
            m = metrics["test"][title.lower()]
            row[f"test {title}"] = f"{m['value']:.4f} ({m['low']:.3f}..{m['high']:.3f})"
        agreement = np.mean(report.test_labels == reference.test_labels)
        row["labels as float32"] = f"{agreement:.1%}"
        correlation = map_correlation(report.test_evidence, reference.test_evidence)
        row["map correlation"] = f"{correlation:.3f}"
        rows.append(row)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def write_models(out: Path, reports: dict[str, Report], table: str) -> None:
    """Write both models and their cards, and put the table between its two markers in README.md.

    Raises:
        ValueError: if README.md exists without the markers; nothing is written then.
    """
    before, after = split_page(out)
    out.mkdir(parents=True, exist_ok=True)
    for variant in ("float32", "int8"):
        path = out / f"pneumonia_{variant}.tflite"
        path.write_bytes(reports[variant].model)
        reports[variant].card.save(path.with_suffix(".json"))
    (out / PAGE).write_text(f"{before}{TABLE_START}\n{table}\n{TABLE_END}{after}")


def split_page(out: Path) -> tuple[str, str]:
    """What stands before and after the table in README.md; nothing if there is no such file.

    Raises:
        ValueError: if README.md exists without the markers of the table.
    """
    page = out / PAGE
    text = page.read_text() if page.exists() else f"{TABLE_START}\n{TABLE_END}\n"
    before, _, rest = text.partition(TABLE_START)
    _, marker, after = rest.partition(TABLE_END)
    if not marker:
        raise ValueError(f"received {page} without the markers {TABLE_START} and {TABLE_END}")
    return before, after


def copy_finder(lungs: Path, out: Path) -> None:
    """Copy the model that finds the lungs, and its card, beside the models that were measured with it."""
    for suffix in (".tflite", ".json"):
        target = (out / FILE).with_suffix(suffix)
        if not target.exists() or not target.samefile(lungs.with_suffix(suffix)):
            shutil.copyfile(lungs.with_suffix(suffix), target)
