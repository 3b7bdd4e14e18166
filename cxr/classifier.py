"""Load a .tflite file with its card, and predict from gray pixels."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path

import numpy as np

from cxr.errors import InvalidModelError
from cxr.imaging import preprocess
from cxr.model_card import ModelCard
from cxr.model_file import MODELS_DIR, open_runner, read_model
from cxr.novelty import NoveltyModel

MODEL_NAMES = ("int8", "float32")
INPUT = "image"


@dataclasses.dataclass(frozen=True, eq=False)  # arrays cannot be compared with ==, nor hashed
class Prediction:
    """The result of the model for one film.

    Attributes:
        label: NORMAL or PNEUMONIA, by the card's threshold.
        probability: calibrated, 0..1, for the card's prevalence.
        uncertain: whether the probability lies in the card's uncertain band.
        viral_probability: probability that a pneumonia is viral and not bacterial, calibrated for equal
            frequency of both, 0..1; None if the label is NORMAL or the card gives no cause.
        logit: log-odds before calibration.
        viral_logit: log-odds of a virus given pneumonia, before calibration.
        evidence: float32 (h, w), class activation map in log-odds; its mean is the logit.
        embedding: float32 (1280,), pooled features.
        novelty: how different the film is from those of training, above 0; 1 is usual. None, like
            ``screening``, if the card has no statistics.
        screening: ``typical``; ``unfamiliar``, if the probability is hardly reliable; or ``refused``, if
            the film does not look like a frontal chest film and the probability is meaningless.
        looks_inverted: whether the film looks like the negative of a chest film.
        latency_ms: wall time of ``preprocess``, ``inference`` and ``screening``.
    """

    label: str
    probability: float
    uncertain: bool
    viral_probability: float | None
    logit: float
    viral_logit: float
    evidence: np.ndarray
    embedding: np.ndarray
    novelty: float | None
    screening: str | None
    looks_inverted: bool
    latency_ms: dict[str, float]


class Classifier:
    """A loaded model. Several threads may call it; inference runs one film at a time."""

    def __init__(self, model: bytes, card: ModelCard, num_threads: int) -> None:
        self.card = card
        self.num_threads = num_threads
        size, side = card.input_size, card.input_size // 32
        tensors = {
            INPUT: (np.uint8, (1, size, size, 1)),
            "logit": (np.float32, (1, 1)),
            "cause": (np.float32, (1, 1)),
            "evidence": (np.float32, (1, side, side, 1)),
            "embedding": (np.float32, (1, None)),
        }
        self._runner = open_runner(model, num_threads, tensors)
        self._novelty = _load_novelty(card, self._runner)
        self._lock = threading.Lock()

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str] = "int8", num_threads: int = 1) -> Classifier:
        """Load a model and its card.

        Args:
            name_or_path: ``int8`` or ``float32`` for the shipped models, or a ``.tflite`` file with
                its card (same name, ``.json``) in the same folder.
            num_threads: threads of one inference, 1 or more.

        Raises:
            InvalidModelError: if the name is unknown, a file is missing, the card is malformed, the
                sha256 of the file differs from the card's, or the signature from the contract.
        """
        model, card = read_model(find_model(name_or_path), ModelCard)
        return cls(model, card, num_threads)

    def predict(self, pixels: np.ndarray) -> Prediction:
        """Classify one film.

        Args:
            pixels: uint8 (H, W), 0 black .. 255 white, as ``read_image`` returns them.
        """
        start = time.perf_counter()
        image = preprocess(pixels, self.card.input_size)[np.newaxis]
        prepared = time.perf_counter()
        with self._lock:
            locked = time.perf_counter()
            output = self._runner(**{INPUT: image})
            done = time.perf_counter()
        card = self.card
        logit = float(output["logit"][0, 0])
        probability = _sigmoid(logit / card.temperature + card.offset)
        is_positive = probability >= card.threshold
        viral_logit = float(output["cause"][0, 0])
        viral = None
        if is_positive and card.cause:
            viral = _sigmoid(viral_logit / card.cause["temperature"] + card.cause["offset"])
        interpreted = time.perf_counter()
        novelty, screening, looks_inverted = None, None, False
        if self._novelty:
            novelty = self._novelty.score(output["embedding"][0])
            screening = self._novelty.screen(novelty)
            looks_inverted = self._novelty.looks_inverted(image[0])
        screened = time.perf_counter()
        return Prediction(
            label=card.labels[is_positive],
            probability=probability,
            uncertain=card.uncertain[0] <= probability <= card.uncertain[1],
            viral_probability=viral,
            logit=logit,
            viral_logit=viral_logit,
            evidence=output["evidence"][0, :, :, 0],
            embedding=output["embedding"][0],
            novelty=novelty,
            screening=screening,
            looks_inverted=looks_inverted,
            latency_ms={
                "preprocess": (prepared - start) * 1e3,
                "inference": (done - locked) * 1e3,
                "screening": (screened - interpreted) * 1e3,
            },
        )


def find_model(name_or_path: str | os.PathLike[str]) -> Path:
    """Find the file of a shipped model by its name; a path is returned unchanged.

    Raises:
        InvalidModelError: if it is neither a shipped name nor a ``.tflite`` path.
    """
    if str(name_or_path) in MODEL_NAMES:
        return MODELS_DIR / f"pneumonia_{name_or_path}.tflite"
    path = Path(name_or_path)
    if path.suffix != ".tflite":
        raise InvalidModelError(
            f"Received the model {str(name_or_path)!r}; accepted are {', '.join(MODEL_NAMES)} or a "
            ".tflite file."
        )
    return path


def _load_novelty(card: ModelCard, runner) -> NoveltyModel | None:
    if card.novelty is None:
        return None
    try:
        novelty = NoveltyModel.from_json(card.novelty)
    except ValueError as error:
        raise InvalidModelError(f"Received a card {card.name}.json: {error}.") from error
    width = int(runner.get_output_details()["embedding"]["shape"][1])
    if len(novelty.mean) != width:
        raise InvalidModelError(
            f"Received a card {card.name}.json with novelty statistics of {len(novelty.mean)} features; "
            f"the model has {width}."
        )
    return novelty


def _sigmoid(log_odds: float) -> float:
    return float(0.5 * (1.0 + np.tanh(0.5 * log_odds)))
