"""Show the film with the evidence over it."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image

from cxr import ModelCard, Prediction
from cxr.classifier import STRIDE
from cxr.explanation import color_evidence, locate_evidence
from cxr.imaging import WHOLE
from cxr.novelty import REFUSED
from streamlit_app.state import VIEWER, Drawing, ShownFilm, get_state

FOLDER = Path(__file__).resolve().parent
SHOWN_PX = 1024  # longer side on the page; larger images would take long to send
VISIBLE = 0.1  # of the scale: fainter evidence cannot be seen
LAYER_PX = 160  # side of the evidence, which is smooth; the browser enlarges it

_viewer = st.components.v2.component(
    "film_viewer",
    html=(FOLDER / "viewer.html").read_text(),
    css=(FOLDER / "viewer.css").read_text(),
    js=(FOLDER / "viewer.js").read_text(),
)


def show(film: ShownFilm, prediction: Prediction, card: ModelCard) -> Drawing:
    """Show the film with the evidence over it, unless the film is refused. Returns the two pictures."""
    drawing = _draw(film, prediction, card)
    if prediction.screening == REFUSED:
        _view(film, drawing.film, None)
        return drawing
    _view(film, drawing.film, drawing.layer)
    st.markdown(tell_place(prediction, card))
    if prediction.evidence.max() >= VISIBLE * card.evidence_scale:
        st.caption(
            "Color shows where in the lungs evidence for pneumonia came from, on the same scale for all "
            f"films; right and left are the child's. {tell_resolution(film, prediction, card)}: it "
            "points to a region, not to a lesion."
        )
    return drawing


def tell_place(prediction: Prediction, card: ModelCard) -> str:
    """Where most of the evidence lies, in words."""
    shares = locate_evidence(prediction.evidence, prediction.lungs)
    if not shares or prediction.evidence.max() < VISIBLE * card.evidence_scale:
        return "No place in the lungs shows evidence for pneumonia."
    (first, share), (second, _), *_ = shares.items()
    if share >= 0.5:
        return f"Most of the evidence lies in the {first} zone."
    return f"Most of the evidence lies in the {first} and {second} zones."


def tell_resolution(film: ShownFilm, prediction: Prediction, card: ModelCard) -> str:
    """The size of a cell of the evidence, in pixels of the film."""
    height, width = film.size
    x0, y0, x1, y1 = prediction.lungs.box or WHOLE
    cells = card.input_size // STRIDE
    return (
        f"A cell of the map covers {(x1 - x0) * width / cells:.0f} x {(y1 - y0) * height / cells:.0f} px "
        f"of the film"
    )


def show_alone(film: ShownFilm) -> None:
    """Show the film without evidence."""
    _view(film, _encode(shrink(film.pixels)), None)


def shrink(pixels: np.ndarray, longest_px: int = SHOWN_PX) -> np.ndarray:
    """A copy whose longer side is at most ``longest_px``, uint8 (h, w)."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest_px, longest_px), Image.Resampling.HAMMING)  # twice as fast as bicubic
    return np.asarray(image)


def to_data_url(pixels: np.ndarray, image_format: str, **options) -> str:
    """Encode a picture as an address that contains it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format, **options)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{image_format.lower()};base64,{text}"


def _draw(film: ShownFilm, prediction: Prediction, card: ModelCard) -> Drawing:
    """Draw and time the two pictures, once and not in each run of the page."""
    key, state = (film.digest, film.was_inverted, card.sha256), get_state()
    if state.drawing is None or state.drawing[0] != key:
        start = time.perf_counter()
        pixels = shrink(film.pixels)
        picture = _encode(pixels)
        layer = color_evidence(prediction.evidence, card.evidence_scale, (LAYER_PX, LAYER_PX))
        layer_url = to_data_url(layer, "PNG", compress_level=1)
        state.drawing = key, Drawing(pixels, picture, layer_url, (time.perf_counter() - start) * 1e3)
    return state.drawing[1]


def _encode(pixels: np.ndarray) -> str:
    return to_data_url(pixels, "JPEG", quality=92)


def _view(film: ShownFilm, picture: str, layer: str | None) -> None:
    """Show the viewer, which sets zoom, brightness, contrast, inversion and the opacity of the layer."""
    height, width = film.size
    description = f"Chest film of {width} by {height} pixels"
    _viewer(
        key=VIEWER,
        data={
            "digest": film.digest,
            "film": picture,
            "layer": layer,
            "description": description + ("" if layer is None else ", colored where evidence came from"),
        },
    )
