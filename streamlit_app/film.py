"""The film: where it comes from, and how it is shown with its evidence."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image
from starlette.formparsers import MultiPartParser

from cxr import ModelCard, Prediction, read_film
from cxr.errors import ACCEPTED, MAX_BYTES
from cxr.explanation import color_evidence

SAMPLES = {
    "normal_1": "Normal 1",
    "normal_2": "Normal 2",
    "pneumonia_1": "Pneumonia 1",
    "pneumonia_2": "Pneumonia 2",
}
FOLDER = Path(__file__).resolve().parent
SAMPLES_DIR = FOLDER / "samples"
SAMPLE_PX = 82  # four stand in a row on a phone
SHOWN_PX = 1024  # the longer side on the page; larger films would only be slow to send
LAYER_PX = 320  # of the evidence, which is smooth

# uploads of more than 1 MB would be spooled to a temporary file, which must not be, and on a read-only
# file system cannot
MultiPartParser.spool_max_size = 2 * MAX_BYTES

_viewer = st.components.v2.component(
    "film_viewer",
    html=(FOLDER / "viewer.html").read_text(),
    css=(FOLDER / "viewer.css").read_text(),
    js=(FOLDER / "viewer.js").read_text(),
)


@dataclasses.dataclass(frozen=True)
class Source:
    """A file by its name, with a key that no other file of the session has, read when it is needed."""

    name: str
    key: str
    read: Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class ShownFilm:
    """A decoded film: pixels uint8 (H, W), what should be known of it, the sha256 of its file, how long
    decoding took, and whether its gray levels were inverted on the visitor's word."""

    pixels: np.ndarray
    notes: tuple[str, ...]
    digest: str
    decode_ms: float
    inverted: bool = False


def choose() -> list[Source]:
    """The drop zone and the samples. Returns the chosen files, none before a choice."""
    state = st.session_state
    state.setdefault("uploads", 0)
    state.setdefault("sample", st.query_params.get("sample"))
    drop_zone, samples = st.columns([3, 4], gap="medium")
    with drop_zone:
        uploads = st.file_uploader(
            "Drop chest X-rays here: one, many, or a ZIP",
            key=f"upload_{state.uploads}",
            accept_multiple_files=True,
            on_change=_forget_sample,
            help=f"Accepted is {ACCEPTED}. Files stay in this session's memory and are not stored.",
        )
    with samples, st.container(horizontal=True, gap="xsmall"):
        for sample, name in SAMPLES.items():
            with st.container(width=SAMPLE_PX, gap="xsmall"):
                st.image(_sample_path(sample), width=SAMPLE_PX, alt=f"Sample film, {name}")
                st.button(name, key=sample, on_click=_take_sample, args=(sample,), type="tertiary")
    with samples:
        st.caption("Samples: each a composite of nine children's films, no patient's own picture.")
    if uploads:
        return [Source(upload.name, upload.file_id, upload.getvalue) for upload in uploads]
    if state.sample in SAMPLES:
        return [Source(state.sample, state.sample, _sample_path(state.sample).read_bytes)]
    return []


def explain() -> None:
    """What a first visitor reads in place of a result."""
    st.info(
        "**Drop a film or click a sample.**  \n"
        "You get a probability of pneumonia, the regions that it came from, and how long it took.  \n"
        "The model learned from children of one hospital: it says when a film is unlike those it knows."
    )


def decode(data: bytes) -> ShownFilm:
    """Decode a file, once for each file that the session shows.

    Raises:
        InvalidImageError: if the file cannot be scored.
    """
    digest = hashlib.sha256(data).hexdigest()
    shown = st.session_state.get("film")
    if shown is None or shown.digest != digest:
        st.session_state.film = None
        start = time.perf_counter()
        with st.spinner("Reading the film"):
            film = read_film(io.BytesIO(data))
        shown = ShownFilm(film.pixels, film.notes, digest, (time.perf_counter() - start) * 1e3)
        st.session_state.film = shown
    return shown


def show(film: ShownFilm, prediction: Prediction, card: ModelCard) -> float:
    """The film under its evidence, in a viewer. Returns the time that the layer took, ms."""
    start = time.perf_counter()
    layer = color_evidence(prediction.evidence, card.evidence_scale, (LAYER_PX, LAYER_PX))
    overlay_ms = (time.perf_counter() - start) * 1e3
    view(film, layer)
    rows, columns = prediction.evidence.shape
    st.caption(
        f"Color shows where evidence for pneumonia came from, on a scale that is the same for every "
        f"film. The map has {rows} x {columns} cells: it points to a region, not to a lesion, and may "
        "lie outside the lungs, where the framing of a film gave the answer away."
    )
    return overlay_ms


def view(film: ShownFilm, layer: np.ndarray | None) -> None:
    """Zoom, brightness, contrast, inversion, and the opacity of the layer, uint8 (H, W, 4)."""
    height, width = film.pixels.shape
    description = f"Chest film of {width} by {height} pixels"
    _viewer(
        key="viewer",
        data={
            "film": to_data_url(shrink(film.pixels), "JPEG", quality=92),
            "layer": None if layer is None else to_data_url(layer, "PNG"),
            "description": description + ("" if layer is None else ", colored where evidence came from"),
        },
    )


def shrink(pixels: np.ndarray, longest_px: int = SHOWN_PX) -> np.ndarray:
    """A copy whose longer side is at most ``longest_px``, uint8 (h, w)."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest_px, longest_px))
    return np.asarray(image)


def to_data_url(pixels: np.ndarray, image_format: str, **options) -> str:
    """A picture that a page can hold in itself."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format, **options)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{image_format.lower()};base64,{text}"


def _sample_path(sample: str) -> Path:
    return SAMPLES_DIR / f"{sample}.png"


def _take_sample(sample: str) -> None:
    st.session_state.sample = sample
    st.session_state.uploads += 1  # a new key empties the drop zone
    st.query_params["sample"] = sample


def _forget_sample() -> None:
    st.session_state.sample = None
    st.query_params.pop("sample", None)
