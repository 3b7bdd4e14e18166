"""The card beside a .tflite file: what the model is, how to read its output, how it was measured."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any


class InvalidModelError(ValueError):
    """The model or its card cannot be used; the message says what came and what is accepted."""


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """``models/<name>.json``.

    A probability is ``sigmoid(logit / temperature + offset)`` and the label is PNEUMONIA where it
    reaches ``threshold``.
    """

    name: str
    variant: str  # int8 or float32
    labels: tuple[str, str]  # below and at or above the threshold
    input_size: int  # px
    temperature: float  # > 0
    offset: float  # log-odds
    prevalence: float  # share of PNEUMONIA that the probability assumes
    threshold: float  # probability
    evidence_scale: float  # log-odds a cell that draws at full color
    metrics: dict[str, dict[str, Any]]  # split -> metric -> value, low, high (95 % interval); films
    novelty: dict[str, Any] | None  # statistics of the screening, null before there is one
    provenance: dict[str, Any]  # data, weights, training, pruning, quantization, versions
    sha256: str  # of the .tflite
    size_bytes: int

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelCard:
        """Read a card.

        Raises:
            InvalidModelError: if the file is missing, is no JSON object, or has other fields.
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
        return cls(**values | {"labels": tuple(values["labels"])})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the card as indented JSON."""
        text = json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")
