"""The card beside a .tflite file: what the model is, how to read its output, how it was measured."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from types import NoneType
from typing import Any

from cxr.errors import InvalidModelError


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """``models/<name>.json``.

    A probability is ``sigmoid(logit / temperature + offset)`` and the label is PNEUMONIA where it
    reaches ``threshold``. Within ``uncertain`` it is not to be relied on: on validation patients a
    stated share of the films with pneumonia lies below that band, and of the normal ones above it.
    """

    name: str
    version: str  # of the model, major.minor.patch
    variant: str  # int8 or float32
    labels: tuple[str, str]  # below and at or above the threshold
    input_size: int  # px
    temperature: float  # > 0
    offset: float  # log-odds
    prevalence: float  # share of PNEUMONIA that the probability assumes
    threshold: float  # probability
    uncertain: tuple[float, float]  # probabilities, lowest and highest of the band
    cause: dict[str, float] | None  # temperature and offset of the cause; null where it is not given
    evidence_scale: float  # log-odds a cell that draws at full color
    metrics: dict[str, dict[str, Any]]  # split -> metric -> value, low, high (95 % interval); films
    operating_points: dict[str, dict[str, list[float]]]  # split -> threshold, sensitivity, specificity
    novelty: dict[str, Any] | None  # of cxr.novelty; null where films are not screened
    provenance: dict[str, Any]  # data and its digest, weights, training, its commit, export, packages
    sha256: str  # of the .tflite
    size_bytes: int

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelCard:
        """Read a card.

        Raises:
            InvalidModelError: if the file is missing, is no JSON object, has other fields, or a field
                is not what it should be.
        """
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidModelError(
                f"Received a model without a readable card {path.name} ({error.strerror}); accepted "
                "is a .tflite file with its .json beside it."
            ) from error
        except ValueError as error:
            raise InvalidModelError(f"Received a card {path.name} that is no JSON: {error}") from error
        expected = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != expected:
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise InvalidModelError(
                f"Received a card {path.name} with {got}; accepted are exactly {sorted(expected)}."
            )
        problem = _find_problem(values)
        if problem:
            raise InvalidModelError(f"Received a card {path.name} whose {problem}.")
        return cls(**values | {name: tuple(values[name]) for name in ("labels", "uncertain")})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the card as indented JSON."""
        text = json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")


def _find_problem(card: dict[str, Any]) -> str | None:
    """What is wrong with a card's values, for the sentence that begins "whose"."""

    def is_number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def is_text(value: Any) -> bool:
        return isinstance(value, str)

    labels, uncertain, cause = card["labels"], card["uncertain"], card["cause"]
    rules = {
        "version": (
            "a string like 1.0.0",
            is_text(card["version"]) and re.fullmatch(r"\d+\.\d+\.\d+", card["version"]) is not None,
        ),
        "labels": ("two strings", isinstance(labels, list) and [*map(is_text, labels)] == [True] * 2),
        "input_size": (
            "a multiple of 32",
            isinstance(card["input_size"], int) and card["input_size"] in range(32, 1025, 32),
        ),
        "temperature": ("above 0", is_number(card["temperature"]) and card["temperature"] > 0),
        "offset": ("a number", is_number(card["offset"])),
        "prevalence": ("in 0..1", is_number(card["prevalence"]) and 0 < card["prevalence"] < 1),
        "threshold": ("in 0..1", is_number(card["threshold"]) and 0 < card["threshold"] < 1),
        "uncertain": (
            "two probabilities, the lower first",
            isinstance(uncertain, list)
            and [*map(is_number, uncertain)] == [True] * 2
            and 0 <= uncertain[0] <= uncertain[1] <= 1,
        ),
        "cause": (
            "null, or a temperature above 0 and an offset",
            cause is None
            or (
                isinstance(cause, dict)
                and set(cause) == {"temperature", "offset"}
                and all(map(is_number, cause.values()))
                and cause["temperature"] > 0
            ),
        ),
        "evidence_scale": ("above 0", is_number(card["evidence_scale"]) and card["evidence_scale"] > 0),
        "metrics": ("an object", isinstance(card["metrics"], dict)),
        "operating_points": ("an object", isinstance(card["operating_points"], dict)),
        "novelty": ("null or an object", isinstance(card["novelty"], (dict, NoneType))),
        "provenance": ("an object", isinstance(card["provenance"], dict)),
        "sha256": ("a string", is_text(card["sha256"])),
        "size_bytes": ("a number", is_number(card["size_bytes"])),
    }
    for field, (accepted, holds) in rules.items():
        if not holds:
            return f"{field} is {card[field]!r}; accepted is {accepted}"
    return None
