"""Show the film with the evidence over it."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image

from cxr import ModelCard, Prediction
from cxr.classifier import STRIDE
from cxr.explanation import OUTLINE, color_evidence, locate_evidence, outline_lungs
from cxr.imaging import WHOLE
from cxr.novelty import REFUSED
from streamlit_app.state import VIEWER, Drawing, ShownFilm, find_pixels, get_state

FOLDER = Path(__file__).resolve().parent
SHOWN_PX = 1024  # longer side on the page; larger images would take long to send
FULL_PX = 4096  # longer side once the visitor enlarges the film
OUTLINE_PX = 384  # longer side of the outline of the lungs, which is known to a fortieth of the film
VISIBLE = 0.1  # of the scale: fainter evidence cannot be seen
LAYER_PX = 160  # side of the evidence, which is smooth; the browser enlarges it

Box = tuple[float, float, float, float] | None  # x0, y0, x1, y1, shares of width and height

_viewer = st.components.v2.component(
    "film_viewer",
    html=(FOLDER / "viewer.html").read_text(),
    css=(FOLDER / "viewer.css").read_text(),
    js=(FOLDER / "viewer.js").read_text(),
)


def show(film: ShownFilm, drawing: Drawing, prediction: Prediction, card: ModelCard, boxing: bool) -> Box:
    """Show the film with the evidence over it, unless the film is refused.

    Args:
        film: in the size in which it is shown.
        drawing: its pictures.
        prediction: of the film.
        card: of the model.
        boxing: whether the visitor draws a box by dragging, and does not move the film.

    Returns:
        The box that the visitor has drawn on this film, or None.
    """
    if prediction.screening == REFUSED:
        _view(film, drawing.film)
        return None
    box, visible = _read_box(_said().get("box"), film.digest), is_visible(prediction, card)
    _view(film, drawing.film, drawing.layer, drawing.outline, visible, boxing, box)
    st.markdown(tell_place(prediction, card))
    if visible:
        st.caption(
            "Color shows where in the lungs evidence for pneumonia came from, on the same scale for all "
            f"films; right and left are the child's. {tell_resolution(film, prediction, card)}: it "
            "points to a region, not to a lesion."
        )
    return box


def _said() -> Mapping[str, object]:
    """What the browser sent last: ``box`` and ``full``."""
    return st.session_state.get(VIEWER) or {}


def _read_box(drawn: object, digest: str) -> Box:
    """The box that the browser sent, if it is one and belongs to the film with this digest."""
    if not isinstance(drawn, dict) or drawn.get("digest") != digest:
        return None
    corners = drawn.get("corners")
    if not isinstance(corners, list) or len(corners) != 4:
        return None
    if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in corners):
        return None
    x0, y0, x1, y1 = corners
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def is_visible(prediction: Prediction, card: ModelCard) -> bool:
    """Whether any evidence for pneumonia can be seen."""
    return bool(prediction.evidence.max() >= VISIBLE * card.evidence_scale)


def tell_place(prediction: Prediction, card: ModelCard) -> str:
    """Where most of the evidence lies, in words."""
    shares = locate_evidence(prediction.evidence, prediction.lungs)
    if not shares or not is_visible(prediction, card):
        return "No place in the lungs shows evidence for pneumonia."
    (first, share), (second, other), *_ = shares.items()
    if share >= 0.5:
        return f"Most of the evidence lies in the {first} zone."
    if share + other >= 0.5:
        return f"Most of the evidence lies in the {first} and {second} zones."
    return f"The evidence is spread over the lungs, most of all in the {first} and {second} zones."


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
    _view(film, _encode(shrink(film.pixels)))


def shrink(pixels: np.ndarray, longest_px: int = SHOWN_PX) -> np.ndarray:
    """A copy whose longer side is at most ``longest_px``, uint8 (h, w)."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest_px, longest_px), Image.Resampling.HAMMING)  # twice as fast as bicubic
    return np.asarray(image)


def to_data_url(pixels: np.ndarray, image_format: str, **options) -> str:
    """Encode a picture as an address that contains it."""
    return _to_url(Image.fromarray(pixels), image_format, **options)


def _to_url(image: Image.Image, image_format: str, **options) -> str:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{image_format.lower()};base64,{text}"


def encode_outline(layer: np.ndarray) -> str:
    """Encode the outline of the lungs, uint8 (h, w, 4), in two colors: a third of the time of RGBA."""
    image = Image.fromarray((layer[..., 3] > 0).astype(np.uint8))
    image.putpalette([0, 0, 0, *OUTLINE])
    return _to_url(image, "PNG", bits=1, transparency=0, compress_level=1)


def draw(film: ShownFilm, prediction: Prediction, card: ModelCard) -> Drawing:
    """Draw the pictures of a film, once and not in each run of the page."""
    key, state = (film.digest, film.was_inverted, card.sha256), get_state()
    if state.drawing is None or state.drawing[0] != key:
        state.drawing = key, make_drawing(film.pixels, prediction, card)
    return state.drawing[1]


def make_drawing(film: np.ndarray, prediction: Prediction, card: ModelCard) -> Drawing:
    """Draw and time the pictures that the browser gets of a film, uint8 (H, W)."""
    start = time.perf_counter()
    pixels = shrink(film)
    picture = _encode(pixels)
    layer = outline = None
    if prediction.screening != REFUSED:
        colors = color_evidence(prediction.evidence, card.evidence_scale, (LAYER_PX, LAYER_PX))
        layer = to_data_url(colors, "PNG", compress_level=1)
        shape = tuple(round(side * OUTLINE_PX / max(pixels.shape)) or 1 for side in pixels.shape)
        outline = encode_outline(outline_lungs(prediction.lungs, shape))
    return Drawing(pixels, picture, layer, outline, (time.perf_counter() - start) * 1e3)


def _draw_full(film: ShownFilm) -> str | None:
    """The film in its own resolution, or None where the server no longer has it decoded."""
    slot, pixels = get_state().slot, find_pixels(film)
    if pixels is None:
        return None
    full = slot.full  # another session may empty the slot at any time
    if full is None or full[0] != film.was_inverted:
        full = slot.full = film.was_inverted, _encode(shrink(pixels, FULL_PX))
    return full[1]


def _encode(pixels: np.ndarray) -> str:
    return to_data_url(pixels, "JPEG", quality=92)


def _view(
    film: ShownFilm,
    picture: str,
    layer: str | None = None,
    outline: str | None = None,
    visible: bool = False,
    boxing: bool = False,
    box: Box = None,
) -> None:
    """Show the viewer, which zooms, moves, brightens and inverts the film in the browser."""
    height, width = film.size
    description = f"Chest film of {width} by {height} pixels"
    _viewer(
        key=VIEWER,
        data={
            "digest": film.digest,
            "film": picture,
            "full": _draw_full(film) if _said().get("full") == film.digest else None,
            "larger": max(film.size) > SHOWN_PX,
            "layer": layer,
            "outline": outline,
            "aspect": width / height,
            "visible": visible,
            "boxing": boxing,
            "box": box,
            "linked": "sample" in st.query_params,
            "description": description + ("" if layer is None else ", colored where evidence came from"),
        },
        on_box_change=_do_nothing,  # without a callback the value is not kept
        on_full_change=_do_nothing,
    )


def _do_nothing() -> None:
    pass
