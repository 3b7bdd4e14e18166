"""Find the lungs in an image: mask, box, whether they are cut off, and whether the image is turned."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cxr.errors import InvalidModelError
from cxr.imaging import WHOLE, Box, preprocess
from cxr.model_card import LungCard
from cxr.model_file import INPUT, MODELS_DIR, Network, read_model
from cxr.novelty import Subspace

STRIDE = 4  # input pixels along the side of a cell of the mask
FILE = "lungs_int8.tflite"
SHIPPED = MODELS_DIR / FILE
BOX_QUANTILE = 0.01  # of the mask lies beyond each edge of the box
FAINT = 0.25  # of the largest share of lung: cells below it do not count for the box
MARGIN = 0.12  # of the box, added on each side
MIN_AREA = 0.02  # of the image: a smaller mask is none
# Most of a film's mask is certain, .64 of it or more on the validation films. In other pictures the
# network sees lungs too, but is less sure of them.
CERTAIN = 0.9
MIN_CERTAIN_SHARE = 0.45
TURN_PROBABILITY = 0.9
SHAPE_SIDE = 16  # cells along the side of the box, in which shapes are compared
EDGES = ("left", "top", "right", "bottom")
CUT_SHARE = 0.1  # of an edge that the lungs reach, from which on they may be cut off


@dataclasses.dataclass(frozen=True, eq=False)
class Lungs:
    """Where the lungs are.

    Attributes:
        mask: float32 (h, w), the share of lung in each cell of the image, 0..1.
        box: the box of the lungs with a margin, as shares of the image's width and height
            (x0, y0, x1, y1); None if no lungs were found. The network sees lungs in some pictures of
            other things, most often in a shape that lungs do not have.
        cut_off: the edges of the image that the lungs reach, of ``EDGES``; they may go on beyond.
        has_usual_shape: whether the mask has the shape that lungs have in an upright frontal image.
        quarter_turns: by how many quarter turns counterclockwise the image seems to be rotated, 0..3; 0
            if no lungs were found.
        latency_ms: wall time of finding them, without waiting for the model.
        image: the network's input, uint8 (1, S, S, 1); None if they were not found by a network.
    """

    mask: np.ndarray
    box: Box | None
    cut_off: tuple[str, ...]
    quarter_turns: int
    latency_ms: float = 0.0
    image: np.ndarray | None = None
    has_usual_shape: bool = True

    @property
    def are_plausible(self) -> bool:
        """Whether lungs were found, and look like those of an upright frontal image."""
        return self.box is not None and self.has_usual_shape


class LungFinder:
    """A loaded model that finds lungs. Several threads may call it."""

    def __init__(self, model: bytes, card: LungCard, num_threads: int) -> None:
        self.card = card
        size, side = card.input_size, card.input_size // STRIDE
        tensors = {
            INPUT: (np.uint8, (1, size, size, 1)),
            "lungs": (np.float32, (1, side, side, 1)),
            "turn": (np.float32, (1, 4)),
        }
        self.network = Network(model, num_threads, tensors)
        self._shape = _load_shape(card)

    @classmethod
    def load(cls, path: str | os.PathLike[str] = SHIPPED, num_threads: int = 1) -> LungFinder:
        """Load a model and its card, which has the same name and ends in ``.json``.

        The shipped model is loaded unless a path is given.

        Raises:
            InvalidModelError: if a file is missing, or they do not belong together.
        """
        model, card = read_model(Path(path), LungCard)
        return cls(model, card, num_threads)

    def find(self, pixels: np.ndarray) -> Lungs:
        """Find the lungs in uint8 (H, W), 0 black .. 255 white."""
        start = time.perf_counter()
        image = self.prepare(pixels)
        prepared = time.perf_counter()
        output, run_ms = self.network.run(image)
        ran = time.perf_counter()
        mask, turn = output["lungs"][0, :, :, 0], output["turn"][0]
        area, certain = np.mean(mask >= 0.5), np.mean(mask >= CERTAIN)
        is_found = area >= MIN_AREA and certain >= MIN_CERTAIN_SHARE * area
        box = lung_box(mask) if is_found else None
        has_usual_shape = True
        if box and self._shape:
            distance = self._shape.distance(describe_shape(mask, box))
            has_usual_shape = distance <= self.card.shape["limit"]
        done = time.perf_counter()
        return Lungs(
            mask=mask,
            box=box,
            cut_off=_find_cut_edges(mask) if is_found else (),
            quarter_turns=int(turn.argmax()) if is_found and turn.max() >= TURN_PROBABILITY else 0,
            latency_ms=(done - ran + prepared - start) * 1e3 + run_ms,
            image=image,
            has_usual_shape=has_usual_shape,
        )

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """The network's input, uint8 (1, S, S, 1), of an image uint8 (H, W)."""
        return preprocess(pixels, self.card.input_size)[np.newaxis]


def find_box(mask: np.ndarray) -> Box:
    """The box outside of which, on each side, lies ``BOX_QUANTILE`` of the mask: small specks do not move
    it, and its edges are finer than the mask's cells.

    Args:
        mask: (H, W), shares of lung, of any scale.

    Returns:
        (x0, y0, x1, y1), as shares of width and height; the whole image if the mask is empty.
    """
    mask = np.where(mask >= FAINT * max(mask.max(), 1e-9), mask, 0)
    edges = []
    for axis in (0, 1):
        total = np.concatenate([[0.0], np.cumsum(mask.sum(axis=axis, dtype=np.float64))])
        if total[-1] == 0:
            return WHOLE
        places = np.linspace(0.0, 1.0, len(total))
        edges.append(np.interp((BOX_QUANTILE, 1.0 - BOX_QUANTILE), total / total[-1], places))
    (x0, x1), (y0, y1) = edges
    return float(x0), float(y0), float(x1), float(y1)


def lung_box(mask: np.ndarray) -> Box:
    """The box of a mask (H, W) with its margin: what is classified."""
    return widen(find_box(mask), MARGIN)


def widen(box: Box, margin: float) -> Box:
    """A box with a margin, which is a share of its sides, inside of the image."""
    x0, y0, x1, y1 = box
    dx, dy = margin * (x1 - x0), margin * (y1 - y0)
    return max(x0 - dx, 0.0), max(y0 - dy, 0.0), min(x1 + dx, 1.0), min(y1 + dy, 1.0)


def describe_shape(mask: np.ndarray, box: Box) -> np.ndarray:
    """The shape of a mask float32 (h, w) inside its box, whatever its place and size: float32 (256,)."""
    height, width = mask.shape
    x0, y0, x1, y1 = box
    image = Image.fromarray(np.asarray(mask, np.float32))
    place = (x0 * width, y0 * height, x1 * width, y1 * height)
    return np.asarray(image.resize((SHAPE_SIDE,) * 2, Image.Resampling.BILINEAR, box=place)).ravel()


def interpolation_matrix(places: np.ndarray, cells: int) -> np.ndarray:
    """Linear interpolation between the centres of ``cells`` cells in a row, as a matrix.

    Args:
        places: (N,), shares of the row; the outermost cells' values reach its ends.
        cells: number of cells.

    Returns:
        float64 (N, cells), rows of sum 1, or of zeros for places outside of the row.
    """
    position = np.clip(places * cells - 0.5, 0.0, cells - 1.0)
    weights = np.maximum(1.0 - np.abs(position[:, np.newaxis] - np.arange(cells)), 0.0)
    return weights * ((places >= 0.0) & (places <= 1.0))[:, np.newaxis]


def upsample(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Interpolate a mask (h, w) bilinearly. Returns float32 (H, W)."""
    image = Image.fromarray(np.asarray(mask, np.float32))
    return np.asarray(image.resize(shape[::-1], Image.Resampling.BILINEAR))


def _load_shape(card: LungCard) -> Subspace | None:
    if card.shape is None:
        return None
    try:
        shape = Subspace.from_json(card.shape)
    except ValueError as error:
        raise InvalidModelError(
            f"Received a card {card.name}.json whose shape cannot be used: {error}."
        ) from error
    if len(shape.mean) != SHAPE_SIDE**2:
        raise InvalidModelError(
            f"Received a card {card.name}.json with shapes of {len(shape.mean)} cells; accepted are "
            f"{SHAPE_SIDE**2}."
        )
    return shape


def _find_cut_edges(mask: np.ndarray) -> tuple[str, ...]:
    outermost = mask[:, 0], mask[0], mask[:, -1], mask[-1]
    pairs = zip(EDGES, outermost, strict=True)
    return tuple(name for name, cells in pairs if np.mean(cells >= 0.5) >= CUT_SHARE)
