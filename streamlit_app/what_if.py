"""The film with its evidence, and what the score does if a part of the film is erased."""

from __future__ import annotations

import numpy as np
import streamlit as st
from PIL import Image, ImageFilter

from cxr import Classifier, Lungs, Prediction
from cxr.lungs import upsample
from cxr.rounding import format_probability
from streamlit_app import viewer
from streamlit_app.screening import is_refused
from streamlit_app.state import WHAT_IF, Drawing, ShownFilm
from streamlit_app.verdict import tell_verdict
from streamlit_app.viewer import Box, shrink, to_data_url

LUNGS, SURROUNDINGS, BOX = "Erase the lungs", "Erase everything else", "Erase a box"
WIDENED = 0.03  # of the longer side, by which the lungs are widened, so that no outline is left
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
    altered = erase(film.pixels, select(part, prediction.lungs, box, film.pixels.shape))
    # the lungs may not be found where they are erased, so their place is kept
    again = classifier.predict(altered, None if part == SURROUNDINGS else prediction.lungs)
    left, right = st.columns([2, 3])
    left.image(to_data_url(shrink(altered, SHOWN_PX), "JPEG", quality=85), alt=f"The film after: {part}")
    card = classifier.card
    before, after = (
        format_probability(p.probability, card.threshold, *card.uncertain) for p in (prediction, again)
    )
    right.markdown(f"**{before} becomes {after}:** {tell_verdict(again, card).lower()}")
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
        float32 (H, W), 1 where the part is and 0 elsewhere.
    """
    longest = max(shape)
    if part == BOX:
        mask, reach, gain = np.zeros(shape, np.float32), SOFTENED * longest, 1.0
        (x0, x1), (y0, y1) = (np.rint(np.multiply(box[i::2], shape[1 - i])).astype(int) for i in (0, 1))
        mask[y0:y1, x0:x1] = 1.0
    else:
        mask, reach, gain = upsample(lungs.mask, shape), WIDENED * longest, 4.0
    blurred = Image.fromarray(np.rint(255 * mask).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(reach)
    )
    inside = np.clip(np.asarray(blurred, np.float32) / 255.0 * gain, 0.0, 1.0)
    return 1.0 - inside if part == SURROUNDINGS else inside


def erase(pixels: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Replace what is selected, float32 (H, W) of 0..1, by the median gray of the film, uint8 (H, W)."""
    return np.rint(pixels * (1.0 - selected) + np.median(pixels) * selected).astype(np.uint8)
