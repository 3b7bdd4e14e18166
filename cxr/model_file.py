"""Open a .tflite file: read it with its card, run it, and check its tensors."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from typing import TypeVar

import numpy as np

from cxr.errors import InvalidModelError
from cxr.model_card import LungCard, ModelCard

SIGNATURE = "serving_default"
INPUT = "image"
MODELS_DIR = Path(__file__).resolve().parent.parent / "models"

Card = TypeVar("Card", ModelCard, LungCard)
Shape = tuple[int | None, ...]


def read_model(path: Path, kind: type[Card]) -> tuple[bytes, Card]:
    """The bytes of a model, and its card, which has the same name and ends in ``.json``.

    Raises:
        InvalidModelError: if a file is missing, the card is malformed, or the sha256 of the model differs
            from the card's.
    """
    try:
        model = path.read_bytes()
    except OSError as error:
        raise InvalidModelError(
            f"Received the model {path.name}, which cannot be read ({error.strerror})."
        ) from error
    card = kind.load(path.with_suffix(".json"))
    digest = hashlib.sha256(model).hexdigest()
    if digest != card.sha256:
        raise InvalidModelError(
            f"Received {path.name} with sha256 {digest[:12]}...; its card accepts "
            f"{card.sha256[:12]}... The file is damaged, or belongs to another card."
        )
    return model, card


class Network:
    """A loaded model. Several threads may run it: they take turns, as its interpreter needs."""

    def __init__(self, model: bytes, num_threads: int, tensors: dict[str, tuple[type, Shape]]) -> None:
        """Load a model.

        Args:
            model: the flatbuffer.
            num_threads: threads of one inference, 1 or more.
            tensors: type and shape of every input and output, by name; None stands for any size.

        Raises:
            ValueError: if num_threads is out of range.
            InvalidModelError: if LiteRT cannot run the model, or it has other tensors.
        """
        # imported here because the processes that decode films import this module without an interpreter
        from ai_edge_litert.interpreter import Interpreter

        if num_threads < 1:
            raise ValueError(f"received num_threads {num_threads}; accepted is 1 or more")
        try:
            interpreter = Interpreter(model_content=model, num_threads=num_threads)
            self._runner = interpreter.get_signature_runner(SIGNATURE)
        except (ValueError, RuntimeError) as error:
            raise InvalidModelError(
                f"Received a model that LiteRT cannot run ({str(error).splitlines()[0]}); accepted is "
                f"a .tflite file with the signature {SIGNATURE}."
            ) from error
        self._lock = threading.Lock()
        details = {**self._runner.get_input_details(), **self._runner.get_output_details()}
        self.shapes = {name: tuple(int(n) for n in d["shape"]) for name, d in details.items()}
        received = {name: (d["dtype"], self.shapes[name]) for name, d in details.items()}
        matches = set(received) == set(tensors) and all(
            received[name][0] == dtype
            and len(received[name][1]) == len(shape)
            and all(want in (None, got) for want, got in zip(shape, received[name][1], strict=True))
            for name, (dtype, shape) in tensors.items()
        )
        if not matches:
            raise InvalidModelError(
                f"Received a model with the tensors {_list_tensors(received)}; accepted are "
                f"{_list_tensors(tensors)}."
            )

    def run(self, image: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
        """The outputs for an image, uint8 (1, S, S, 1), and how long they took without waiting, ms."""
        with self._lock:
            start = time.perf_counter()
            output = self._runner(**{INPUT: image})
            return output, (time.perf_counter() - start) * 1e3


def _list_tensors(tensors: dict[str, tuple[type, Shape]]) -> str:
    return ", ".join(f"{name} {np.dtype(t).name} {shape}" for name, (t, shape) in tensors.items())
