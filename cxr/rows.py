"""The row of a film, which the command line prints, bulk scoring writes and the page shows in a table."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cxr.classifier import Classifier
from cxr.errors import InvalidImageError
from cxr.imaging import ImageFile, read_film
from cxr.rounding import round_safely

COLUMNS = (
    "path",
    "label",
    "probability",
    "threshold",
    "uncertain",
    "viral_probability",
    "novelty",
    "screening",
    "inverted",
    "lung_box",
    "latency_ms",
    "error",
)

DIGITS = 6  # decimals of a probability
BOX_DIGITS = 4  # decimals of a share of the film's width or height

Row = dict[str, Any]
_LOG = logging.getLogger("cxr")


class Scored(NamedTuple):
    """What became of a file.

    Attributes:
        row: its row; it has an error if the file could not be scored.
        pixels: the film, uint8 (H, W), or None.
        is_temporary: whether the machine is the reason for an error, and not the file.
    """

    row: Row
    pixels: np.ndarray | None = None
    is_temporary: bool = False


def score_film(
    classifier: Classifier,
    name: str,
    file: ImageFile,
    on_wait: Callable[[int], None] | None = None,
) -> Scored:
    """Score a film. Whatever is raised becomes the error of its row.

    Args:
        classifier: the model.
        name: the row's ``path``.
        file: as ``read_film`` takes it.
        on_wait: as ``read_film`` takes it.

    Returns:
        The row and the pixels. ``lung_box`` is x0, y0, x1, y1 as shares of the film's width and height,
        or None. ``latency_ms`` is wall time from file to prediction, without the time that the film
        waited for the decoder and for the model.
    """
    row: Row = dict.fromkeys(COLUMNS) | {"path": name}
    try:
        film = read_film(file, on_wait)
        prediction = classifier.predict(film.pixels)
    except Exception as error:  # one film must not stop the others
        return Scored(fail_film(name, error), is_temporary=getattr(error, "is_temporary", False))
    probability, viral = prediction.probability, prediction.viral_probability
    card, box = classifier.card, prediction.lungs.box
    row |= {
        "label": prediction.label,
        "probability": round_safely(probability, card.threshold, *card.uncertain, digits=DIGITS),
        "threshold": card.threshold,
        "uncertain": prediction.uncertain,
        "viral_probability": viral if viral is None else round(viral, DIGITS),
        "novelty": prediction.novelty if prediction.novelty is None else round(prediction.novelty, 4),
        "screening": prediction.screening,
        "inverted": prediction.looks_inverted,
        "lung_box": box and [round(edge, BOX_DIGITS) for edge in box],
        "latency_ms": round(film.decode_ms + sum(prediction.latency_ms.values()), 3),
    }
    return Scored(row, film.pixels)


def fail_film(name: str, error: Exception) -> Row:
    """The row of a film that could not be scored.

    Of unexpected errors only the type is logged, because their text may quote a DICOM header.
    """
    if isinstance(error, OSError) and error.errno:
        error = InvalidImageError(f"a path that cannot be read ({os.strerror(error.errno)})")
    elif not isinstance(error, InvalidImageError):
        kind = type(error).__name__
        _LOG.error("A film could not be scored, because of an unexpected %s.", kind)
        error = InvalidImageError(f"a file that could not be scored, because of an unexpected {kind}")
    return dict.fromkeys(COLUMNS) | {"path": name, "error": str(error)}
