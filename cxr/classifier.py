"""Load a .tflite file with its card, and predict from gray pixels: find the lungs, then look at them."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import numpy as np

from cxr.errors import InvalidModelError
from cxr.imaging import WHOLE, preprocess
from cxr.lungs import FILE, SHIPPED, LungFinder, Lungs, interpolation_matrix, upsample
from cxr.model_card import LungCard, ModelCard
from cxr.model_file import INPUT, MODELS_DIR, Network, read_model
from cxr.novelty import REFUSED, NoveltyModel

MODEL_NAMES = ("int8", "float32")
STRIDE = 32  # px of the network's input along the side of a cell
EVIDENCE_SIDE = 80  # points along each side of the film
UNSURE = 0.85  # share of lung in a cell of the mask up to which it has no weight: the edges of the lungs


@dataclasses.dataclass(frozen=True, eq=False)  # arrays cannot be compared with ==, nor hashed
class Prediction:
    """The result of the model for one film.

    Attributes:
        image: uint8 (1, S, S, 1), the network's input: the box of the lungs.
        label: NORMAL or PNEUMONIA, by the card's threshold.
        probability: calibrated, 0..1, for the card's prevalence.
        uncertain: whether the probability lies in the card's uncertain band.
        viral_probability: probability that a pneumonia is viral and not bacterial, calibrated for equal
            frequency of both, 0..1; None if the label is NORMAL or the card gives no cause.
        logit: log-odds before calibration.
        viral_logit: log-odds of a virus given pneumonia, before calibration.
        evidence: float32 (80, 80), class activation map in log-odds, spread over the film. It is 0 where
            there is no lung, and its mean is the logit.
        embedding: float32 (1280,), pooled features.
        lungs: where the lungs are. Their box was classified, or the whole film if none were found.
        novelty: how different the film is from those of training, above 0; 1 is usual. None if the card
            has no statistics; then ``screening`` is None as well, unless the lungs are not plausible.
        screening: ``typical``; ``unfamiliar``, if the probability is hardly reliable; or ``refused``, if
            no lungs were found, their shape is not that of lungs on an upright frontal film, the gray
            levels look inverted, or the novelty is beyond the card's limit; then the probability is
            meaningless.
        looks_inverted: whether the film looks like the negative of a chest film.
        latency_ms: wall time of ``lungs``, ``preprocess``, ``inference``, which includes the pooling over
            the lungs, and ``screening``.
    """

    image: np.ndarray
    label: str
    probability: float
    uncertain: bool
    viral_probability: float | None
    logit: float
    viral_logit: float
    evidence: np.ndarray
    embedding: np.ndarray
    lungs: Lungs
    novelty: float | None
    screening: str | None
    looks_inverted: bool
    latency_ms: dict[str, float]


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """The flatbuffers and cards of a classifier and of the finder of lungs that it was measured with."""

    model: bytes
    card: ModelCard
    finder: bytes
    finder_card: LungCard


class Classifier:
    """A loaded model with the finder of lungs that it was measured with. Several threads may call it;
    inference runs one film at a time."""

    def __init__(self, model: bytes, card: ModelCard, finder: LungFinder, num_threads: int) -> None:
        self.card = card
        self.finder = finder
        self.num_threads = num_threads
        size, side = card.input_size, card.input_size // STRIDE
        tensors = {
            INPUT: (np.uint8, (1, size, size, 1)),
            "cause": (np.float32, (1, side, side, 1)),
            "evidence": (np.float32, (1, side, side, 1)),
            "embedding": (np.float32, (1, None)),
        }
        self.network = Network(model, num_threads, tensors)
        self._novelty = _load_novelty(card, self.network)

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str] = "int8", num_threads: int = 1) -> Classifier:
        """Load a model and its card, and the finder of lungs beside it, or else the shipped one.

        Args:
            name_or_path: ``int8`` or ``float32`` for the shipped models, or a ``.tflite`` file with
                its card (same name, ``.json``) in the same folder.
            num_threads: threads of one inference, 1 or more.

        Raises:
            InvalidModelError: if the name is unknown, a file is missing, a card is malformed, the
                sha256 of a file differs from the card's, or the signature from the contract.
        """
        return cls.from_files(read_files(name_or_path), num_threads)

    @classmethod
    def from_files(cls, files: ModelFiles, num_threads: int = 1) -> Classifier:
        """Load what ``read_files`` has read. Errors as ``load``."""
        finder = LungFinder(files.finder, files.finder_card, num_threads)
        return cls(files.model, files.card, finder, num_threads)

    def predict(self, pixels: np.ndarray, lungs: Lungs | None = None) -> Prediction:
        """Classify one film.

        Args:
            pixels: uint8 (H, W), 0 black .. 255 white, as ``read_image`` returns them.
            lungs: where the lungs are, if this is known; they are found otherwise.
        """
        lungs = lungs or self.finder.find(pixels)
        start = time.perf_counter()
        image = self.prepare(pixels, lungs)
        prepared = time.perf_counter()
        output, run_ms = self.network.run(image)
        ran = time.perf_counter()
        card = self.card
        evidence, weights = spread_evidence(output["evidence"][0, :, :, 0], lungs)
        logit = float(evidence.mean(dtype=np.float64))
        viral_logit = float(np.sum(output["cause"][0, :, :, 0] * weights))
        pooled = time.perf_counter()
        probability = _sigmoid(logit / card.temperature + card.offset)
        is_positive = probability >= card.threshold
        viral = None
        if is_positive and card.cause:
            viral = _sigmoid(viral_logit / card.cause["temperature"] + card.cause["offset"])
        interpreted = time.perf_counter()
        novelty, screening, looks_inverted = None, None, False
        if self._novelty:
            novelty = self._novelty.score(output["embedding"][0])
            screening = self._novelty.screen(novelty)
            looks_inverted = self._novelty.looks_inverted(image[0])
        if not lungs.are_plausible or looks_inverted:
            screening = REFUSED
        screened = time.perf_counter()
        return Prediction(
            image=image,
            label=card.labels[is_positive],
            probability=probability,
            uncertain=card.uncertain[0] <= probability <= card.uncertain[1],
            viral_probability=viral,
            logit=logit,
            viral_logit=viral_logit,
            evidence=evidence,
            embedding=output["embedding"][0],
            lungs=lungs,
            novelty=novelty,
            screening=screening,
            looks_inverted=looks_inverted,
            latency_ms={
                "lungs": lungs.latency_ms,
                "preprocess": (prepared - start) * 1e3,
                "inference": run_ms + (pooled - ran) * 1e3,
                "screening": (screened - interpreted) * 1e3,
            },
        )

    def prepare(self, pixels: np.ndarray, lungs: Lungs) -> np.ndarray:
        """The network's input, uint8 (1, S, S, 1): the box of the lungs of an image uint8 (H, W)."""
        return preprocess(pixels, self.card.input_size, lungs.box or WHOLE)[np.newaxis]


def spread_evidence(cells: np.ndarray, lungs: Lungs) -> tuple[np.ndarray, np.ndarray]:
    """Spread the cells of the box over the film, in the lungs alone.

    The map is the bilinear interpolation of the cells, times the mask, divided by the mask's mean. So its
    mean is the mean of the cells, each weighted by the lung that it covers.

    Args:
        cells: float32 (h, w), log-odds in each cell of the lungs' box.
        lungs: where the lungs are; without them, the whole film is taken for lung.

    Returns:
        The map, float32 (80, 80), and the cells' weights, float64 (h, w) of sum 1.
    """
    x0, y0, x1, y1 = lungs.box or WHOLE
    places = (np.arange(EVIDENCE_SIDE) + 0.5) / EVIDENCE_SIDE
    rows = interpolation_matrix((places - y0) / (y1 - y0), cells.shape[0])
    columns = interpolation_matrix((places - x0) / (x1 - x0), cells.shape[1])
    inside = np.outer(rows.sum(1), columns.sum(1))
    mask = inside
    if lungs.box:
        mask = upsample(lungs.mask, inside.shape)
        mask = inside * np.clip((mask - UNSURE) / (1.0 - UNSURE), 0.0, 1.0)
    mask = mask / mask.sum() if mask.any() else inside / inside.sum()
    spread = rows @ cells @ columns.T
    evidence = (mask * spread * mask.size).astype(np.float32)
    return evidence, rows.T @ mask @ columns


def read_files(name_or_path: str | os.PathLike[str]) -> ModelFiles:
    """Read a model and the finder of lungs beside it, or else the shipped one. Errors as
    ``Classifier.load``."""
    path = find_model(name_or_path)
    model, card = read_model(path, ModelCard)
    beside = path.with_name(FILE)
    finder, finder_card = read_model(beside if beside.exists() else SHIPPED, LungCard)
    if finder_card.sha256 != card.lungs_sha256:
        raise InvalidModelError(
            f"Received {FILE} with sha256 {finder_card.sha256[:12]}...; the card {card.name}.json "
            f"accepts {card.lungs_sha256[:12]}..., with which its model was measured."
        )
    return ModelFiles(model, card, finder, finder_card)


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


def _load_novelty(card: ModelCard, network: Network) -> NoveltyModel | None:
    if card.novelty is None:
        return None
    try:
        novelty = NoveltyModel.from_json(card.novelty)
    except ValueError as error:
        raise InvalidModelError(f"Received a card {card.name}.json: {error}.") from error
    width = network.shapes["embedding"][1]
    if (features := len(novelty.space.mean)) != width:
        raise InvalidModelError(
            f"Received a card {card.name}.json with novelty statistics of {features} features; "
            f"the model has {width}."
        )
    return novelty


def _sigmoid(log_odds: float) -> float:
    return float(0.5 * (1.0 + np.tanh(0.5 * log_odds)))
