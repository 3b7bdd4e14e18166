"""The card of a .tflite file: what the model is, how to interpret its output, how it was measured."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import reprlib
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from cxr.errors import InvalidModelError

Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Chance = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
WORDS = {
    "float": "a number",
    "int": "a whole number",
    "str": "a string",
    "array": "a list",
    "object": "an object",
    "object | null": "an object or null",
}


class Interval(TypedDict):
    """A figure with its 95 % interval."""

    value: Share
    low: Share
    high: Share


class Metrics(TypedDict):
    """Metrics on a set of films.

    ``brier`` and ``ece`` give each film the same weight. The balanced metrics give both classes the same
    weight, as the probability assumes.
    """

    films: Count
    pneumonia: Count
    auroc: Interval
    accuracy: Interval
    sensitivity: Interval
    specificity: Interval
    precision: Interval
    f1: Interval
    brier: Interval
    ece: Interval
    balanced_brier: Interval
    balanced_ece: Interval
    coverage: Interval
    selective_accuracy: Interval
    cause_auroc: NotRequired[Interval]
    unfamiliar: NotRequired[Interval]
    refused: NotRequired[Interval]


class Splits(TypedDict):
    """Metrics by set of films."""

    validation: Metrics
    corrupted: Metrics
    test: Metrics
    external: NotRequired[Metrics]  # films of another hospital, named in the provenance


class AlteredMetrics(TypedDict):
    """Metrics on altered films: ``changed`` is the share of verdicts that differ from those on the films
    as they are."""

    auroc: Interval
    accuracy: Interval
    changed: Interval


class LungTests(TypedDict):
    """What a model follows: the lungs, or what lies around them."""

    films: Count
    lungs_gray: AlteredMetrics
    lungs_blurred: AlteredMetrics
    background_gray: AlteredMetrics
    background_blurred: AlteredMetrics
    background_noisy: AlteredMetrics
    transplanted: AlteredMetrics  # lungs in the frame of a film of the other class
    evidence_inside: Interval  # share of the positive evidence that lies in the lungs
    hottest_inside: Interval  # share of films whose strongest evidence lies in the lungs
    mask_auroc: Interval  # of the shape and place of the lungs alone


class LungTestSplits(TypedDict):
    """What a model follows, by set of films."""

    validation: LungTests
    test: LungTests


class OperatingPoints(TypedDict):
    """Three lists of the same length."""

    threshold: list[Share]
    sensitivity: list[Share]
    specificity: list[Share]


class MeasuredPoints(TypedDict):
    """Operating points by set of films."""

    validation: OperatingPoints
    test: OperatingPoints


class Cause(TypedDict):
    """The calibration of virus against bacteria."""

    temperature: Positive
    offset: float


class NoveltyStatistics(TypedDict):
    """The statistics of ``cxr.novelty``: limits, and arrays in base64."""

    usual: Positive
    unfamiliar: Positive
    refused: Positive
    mean: str
    scales: str
    components: str
    template: str


class ShapeStatistics(TypedDict):
    """The subspace of lung shapes: arrays in base64, and the limit of the distance from it."""

    usual: Positive
    limit: Positive
    mean: str
    scales: str
    components: str


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """``models/<name>.json``.

    A probability is ``sigmoid(logit / temperature + offset)``, and the label is PNEUMONIA if it reaches
    ``threshold``. A probability within ``uncertain`` is not reliable: on validation patients, a stated
    share of the films with pneumonia lies below that band, and of the normal films above it.
    """

    name: str
    version: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+\.\d+$")]  # of the model, major.minor.patch
    variant: Annotated[str, msgspec.Meta(pattern="^(int8|float32)$")]
    labels: tuple[str, str]  # below the threshold, and at or above it
    input_size: Annotated[int, msgspec.Meta(ge=32, le=1024, multiple_of=32)]  # px
    temperature: Positive
    offset: float  # log-odds
    prevalence: Chance  # share of PNEUMONIA that the probability assumes
    threshold: Chance  # probability
    uncertain: tuple[Share, Share]  # lowest and highest probability of the band
    cause: Cause | None  # null if the model gives no cause
    evidence_scale: Positive  # log-odds per cell that are drawn in full color
    metrics: Splits
    operating_points: MeasuredPoints
    lung_tests: LungTestSplits
    lungs_sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]  # of the model that finds lungs
    novelty: NoveltyStatistics | None  # null if films are not screened
    provenance: dict[str, Any]  # data and its digest, weights, training, its commit, export, packages
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]  # of the .tflite
    size_bytes: Count

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelCard:
        """Read a card.

        Raises:
            InvalidModelError: if the file is missing or not a JSON object, or if a field is missing,
                unknown or invalid.
        """
        card = _load(Path(path), cls)
        if problem := _find_contradiction(card):
            raise InvalidModelError(f"Received a card {Path(path).name} whose {problem}.")
        return card

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the card as indented JSON."""
        _save(self, Path(path))


class LungMetrics(TypedDict):
    """How well lungs are found on a set of films that have masks drawn by people."""

    films: Count
    dice: Interval  # of masks
    box_overlap: Interval  # intersection over union of boxes


class LungSplits(TypedDict):
    """Metrics by set of films."""

    validation: LungMetrics
    test: LungMetrics


@dataclasses.dataclass(frozen=True)
class LungCard:
    """The card of the model that finds lungs, ``models/lungs_int8.json``."""

    name: str
    version: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+\.\d+$")]
    variant: Annotated[str, msgspec.Meta(pattern="^(int8|float32)$")]
    input_size: Annotated[int, msgspec.Meta(ge=32, le=1024, multiple_of=32)]  # px
    metrics: LungSplits
    shape: ShapeStatistics | None  # null if the shape of lungs is not checked
    provenance: dict[str, Any]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]  # of the .tflite
    size_bytes: Count

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LungCard:
        """Read a card. Errors as ``ModelCard.load``."""
        return _load(Path(path), cls)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the card as indented JSON."""
        _save(self, Path(path))


def _load(path: Path, kind: type) -> Any:
    try:
        values = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise InvalidModelError(
            f"Received a model without a readable card {path.name} ({error.strerror}); accepted "
            "is a .tflite file with its .json beside it."
        ) from error
    except (msgspec.DecodeError, RecursionError) as error:
        reason = str(error).partition(" - at ")[0]
        raise InvalidModelError(f"Received a card {path.name} that is no JSON: {reason}.") from error
    expected = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(values, dict) or set(values) != expected:
        got = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise InvalidModelError(
            f"Received a card {path.name} with {got}; accepted are exactly {sorted(expected)}."
        )
    try:
        card = msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        problem = _describe(str(error), values)
        raise InvalidModelError(f"Received a card {path.name} whose {problem}.") from error
    return card


def _save(card: Any, path: Path) -> None:
    text = json.dumps(dataclasses.asdict(card), indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _describe(problem: str, values: Any) -> str:
    """Say which field was received with what value, to continue a sentence after "whose"."""
    problem, _, path = problem.rstrip("`").partition(" - at `$.")
    for key in re.findall(r"\w+", path):
        values = values[int(key) if isinstance(values, list) else key]
    if missing := re.search(r"missing required field `(\w+)`", problem):
        return f"{path} has no {missing[1]}; accepted is one that has it"
    accepted = re.sub(r"`([^`]+)`", lambda m: WORDS.get(m[1], m[1]), problem.removeprefix("Expected "))
    return f"{path} is {reprlib.repr(values)}; accepted is {accepted.partition(', got')[0]}"


def _find_contradiction(card: ModelCard) -> str | None:
    """Find fields that contradict each other, to continue a sentence after "whose"."""
    low, high = card.uncertain
    if low > high:
        return f"uncertain is {[low, high]}; accepted is two probabilities, the lower first"
    for split, points in card.operating_points.items():
        lengths = {name: len(values) for name, values in points.items()}
        if len(set(lengths.values())) > 1:
            return f"operating_points.{split} has lists of {lengths}; accepted are lists of one length"
    for split, metrics in card.metrics.items():
        for name, m in metrics.items():
            if isinstance(m, dict) and not m["low"] <= m["value"] <= m["high"]:
                return f"metrics.{split}.{name} is {m}; accepted is a value between low and high"
    if "external" in card.metrics and not isinstance(card.provenance.get("external"), str):
        return "metrics have external without its name; accepted is a string in provenance.external"
    return None
