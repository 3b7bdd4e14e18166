"""The film with its evidence, and what the score does if a part of the film is erased."""

from __future__ import annotations

import numpy as np
import streamlit as st
from PIL import Image, ImageFilter, ImageStat

from cxr import Classifier, Lungs, Prediction
from cxr.lungs import upsample
from cxr.rounding import format_probability
from streamlit_app import viewer
from streamlit_app.screening import is_refused
from streamlit_app.state import WHAT_IF, Drawing, ShownFilm, find_pixels
from streamlit_app.verdict import tell_verdict
from streamlit_app.viewer import Box, shrink, to_data_url

LUNGS, SURROUNDINGS, BOX = "Erase the lungs", "Erase everything else", "Erase a box"
WIDENED = 0.03  # of the longer side, by which the lungs are widened, so that no outline is left
MASK_PX = 256  # longer side on which the lungs are widened; they are known to a fortieth of the film
SOFTENED = 0.005  # of the longer side, so that the edge of a box is no edge of the film
SHOWN_PX = 320


@st.fragment
def examine(film: ShownFilm, drawing: Drawing, prediction: Prediction, classifier: Classifier) -> None:
    """Show the film with its evidence, and let the visitor erase a part of it.

    It is a fragment: neither costs a run of the page.

    Args:
        film: in the size in which it is shown.
        drawing: its pictures.
        prediction: of the film.
        classifier: the model.
    """
    boxing = st.session_state.get(WHAT_IF) == BOX
    box = viewer.show(film, drawing, prediction, classifier.card, boxing)
    if is_refused(prediction):
        return
    part = st.segmented_control(
        "What if this were not there?",
        (LUNGS, SURROUNDINGS, BOX),
        key=WHAT_IF,
        help="The part becomes one gray, and the model scores the film again.",
    )
    if part == BOX:
        st.caption(
            "Drag a box on the film. On the keyboard, go to the film: arrows move the box, Shift and "
            "arrows change its size."
        )
    if part is None or (part == BOX and box is None):
        return
    pixels, before = find_pixels(film), prediction
    if pixels is None:  # a score of fewer pixels is compared with another one of as many
        pixels, before = film.pixels, classifier.predict(film.pixels, prediction.lungs)
    altered = erase(pixels, select(part, prediction.lungs, box, pixels.shape))
    # the lungs may not be found where they are erased, so their place is kept
    again = classifier.predict(altered, None if part == SURROUNDINGS else prediction.lungs)
    left, right = st.columns([2, 3])
    left.image(to_data_url(shrink(altered, SHOWN_PX), "JPEG", quality=85), alt=f"The film after: {part}")
    card = classifier.card
    first, second = (
        format_probability(p.probability, card.threshold, *card.uncertain) for p in (before, again)
    )
    verdict = "uncertain" if again.uncertain else tell_verdict(again, card).lower()
    right.markdown(f"**{first} becomes {second}:** {verdict}")
    if part != BOX:
        expected = "comes near 0.5" if part == LUNGS else "stays where it was"
        right.caption(
            f"The score of a model that reads the lungs {expected}. The model card has such tests."
        )


def select(part: str, lungs: Lungs, box: Box, shape: tuple[int, int]) -> np.ndarray:
    """Where a part of the film is, with a soft edge.

    Args:
        part: ``LUNGS``, ``SURROUNDINGS`` or ``BOX``.
        lungs: where the lungs are.
        box: x0, y0, x1, y1 as shares of width and height, for ``BOX``.
        shape: H and W of the film, px.

    Returns:
        uint8 (H, W), 255 where the part is and 0 elsewhere.
    """
    if part == BOX:
        (height, width), (x0, y0, x1, y1) = shape, box
        soft_px = SOFTENED * max(shape)
        rows, columns = _ramp(height, y0, y1, soft_px), _ramp(width, x0, x1, soft_px)
        return np.rint(255 * np.outer(rows, columns)).astype(np.uint8)
    small = tuple(max(round(side * MASK_PX / max(shape)), 1) for side in shape)
    mask = Image.fromarray(np.rint(255 * upsample(lungs.mask, small)).astype(np.uint8))
    inside = mask.filter(ImageFilter.GaussianBlur(WIDENED * MASK_PX)).point(lambda level: 4 * level)
    if part == SURROUNDINGS:
        inside = inside.point(lambda level: 255 - level)
    return np.asarray(inside.resize(shape[::-1], Image.Resampling.BILINEAR))


def erase(pixels: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Replace what is selected, uint8 (H, W), by the median gray of the film, uint8 (H, W)."""
    film, mask = Image.fromarray(pixels), Image.fromarray(selected)
    gray = Image.new("L", film.size, ImageStat.Stat(film).median[0])
    return np.asarray(Image.composite(gray, film, mask))


def _ramp(side: int, low: float, high: float, soft_px: float) -> np.ndarray:
    """1 between two shares of a side and 0 elsewhere, with ends that are soft unless they are the film's.

    Args:
        side: px.
        low: share of the side, 0..1.
        high: likewise.
        soft_px: width of a soft end, px.

    Returns:
        float64 (side,).
    """
    places = np.arange(side) + 0.5
    start = places - low * side if low > 0.0 else np.full(side, np.inf)
    end = high * side - places if high < 1.0 else np.full(side, np.inf)
    return np.clip(np.minimum(start, end) / soft_px + 0.5, 0.0, 1.0)
