"""What if a part of the film were not there? Erase the lungs or all else, and see what the score does."""

from __future__ import annotations

import numpy as np
import streamlit as st
from PIL import Image, ImageFilter

from cxr import Classifier, Lungs, Prediction
from cxr.rounding import format_probability
from streamlit_app.state import WHAT_IF
from streamlit_app.verdict import tell_verdict
from streamlit_app.viewer import shrink, to_data_url

LUNGS, SURROUNDINGS = "Erase the lungs", "Erase everything else"
WIDENED = 0.03  # of the longer side, by which the lungs are widened, so that no outline is left
SHOWN_PX = 320


@st.fragment
def offer(pixels: np.ndarray, prediction: Prediction, classifier: Classifier) -> None:
    """Let the visitor erase a part, and show the altered film and its probability beside the first one.

    Args:
        pixels: uint8 (h, w), the film in the size in which it is shown.
        prediction: of the film.
        classifier: the model.
    """
    part = st.segmented_control(
        "What if this were not there?",
        (LUNGS, SURROUNDINGS),
        key=WHAT_IF,
        help="The part becomes one gray, and the model scores the film again.",
    )
    if part is None:
        return
    altered = erase(pixels, prediction.lungs, part)
    # without lungs in the film they cannot be found, so their place is kept
    again = classifier.predict(altered, prediction.lungs if part == LUNGS else None)
    left, right = st.columns([2, 3])
    left.image(to_data_url(shrink(altered, SHOWN_PX), "JPEG", quality=85), alt=f"The film after: {part}")
    card = classifier.card
    before, after = (
        format_probability(p.probability, card.threshold, *card.uncertain) for p in (prediction, again)
    )
    expected = "comes near 0.5" if part == LUNGS else "stays where it was"
    right.markdown(f"**{before} becomes {after}:** {tell_verdict(again, card).lower()}")
    right.caption(f"The score of a model that reads the lungs {expected}. The model card has such tests.")


def erase(pixels: np.ndarray, lungs: Lungs, part: str) -> np.ndarray:
    """Replace the lungs, or all else, by the median gray of the film, with a soft edge.

    Args:
        pixels: uint8 (H, W).
        lungs: where the lungs are.
        part: ``LUNGS`` or ``SURROUNDINGS``.

    Returns:
        uint8 (H, W).
    """
    height, width = pixels.shape
    reach = WIDENED * max(height, width)
    mask = Image.fromarray(np.rint(255 * lungs.mask).astype(np.uint8))
    blurred = mask.resize((width, height), Image.Resampling.BILINEAR).filter(
        ImageFilter.GaussianBlur(reach)
    )
    inside = np.clip(np.asarray(blurred, np.float32) / 255.0 * 4.0, 0.0, 1.0)
    erased = inside if part == LUNGS else 1.0 - inside
    return np.rint(pixels * (1.0 - erased) + np.median(pixels) * erased).astype(np.uint8)
