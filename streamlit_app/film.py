"""Choose a film, and decode it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image
from streamlit.delta_generator import DeltaGenerator

from cxr import InvalidImageError, read_film
from cxr.errors import ACCEPTED, MAX_BYTES
from cxr.tables import to_printable
from streamlit_app import limits
from streamlit_app.state import FilmSlot, ShownFilm, drop_zone_key, get_state, list_uploads
from streamlit_app.viewer import shrink, to_data_url

SAMPLES = {
    "normal_1": "Normal 1",
    "normal_2": "Normal 2",
    "pneumonia_1": "Pneumonia 1",
    "pneumonia_2": "Pneumonia 2",
    "uncertain": "Uncertain",
    "unfamiliar": "Unfamiliar",
}
SAMPLES_DIR = Path(__file__).resolve().parent / "samples"
SAMPLE_PX = 79  # four fit in a row on a phone, and all beside the drop zone on a desktop
MAX_KEPT_BYTES = 200 * 2**20  # of decoded films, in all sessions together


@dataclasses.dataclass(frozen=True)
class Source:
    """A file that is read when it is needed, with a key that is unique in the session."""

    name: str
    key: str
    read: Callable[[], bytes]


_slots: weakref.WeakSet[FilmSlot] = weakref.WeakSet()
_slots_lock = threading.Lock()


def choose() -> list[Source]:
    """Show the drop zone and the samples. Returns the chosen files, or none before a choice.

    The address names the chosen sample, so that the browser's Back and Forward show what was shown.
    """
    limits.watch_session()
    sample = st.query_params.get("sample")
    if sample in SAMPLES and list_uploads():  # the visitor went back from uploads to a sample
        _empty_drop_zone()
    drop_zone, samples = st.columns([1, 2], gap="medium")
    with drop_zone:
        uploads = st.file_uploader(
            "Drop chest X-rays here: one, many, or a ZIP",
            key=drop_zone_key(),
            accept_multiple_files=True,
            max_upload_size=math.ceil(MAX_BYTES / 10**6),  # the browser counts in millions of bytes
            on_change=_forget_sample,
            help=f"Accepted: {ACCEPTED}. Files stay in this session's memory and are not stored.",
        )
        st.caption(
            f"Up to {MAX_BYTES // 2**20} MB a file and {limits.MAX_SESSION_BYTES // 2**20} MB a session. "
            f"Files leave the server's memory {limits.GRACE_S:.0f} s after the page is closed."
        )
    with samples, st.container(horizontal=True, gap="xsmall"):
        for name, title in SAMPLES.items():
            with st.container(width=SAMPLE_PX, gap="xsmall"):
                st.image(_make_thumbnail(name), width=SAMPLE_PX, alt=f"Sample film, {title}")
                st.button(title, key=name, on_click=_take_sample, args=(name,), type="tertiary")
    with samples:
        st.caption(
            "Each sample is a composite of nine children's films and shows no single patient. The "
            "unfamiliar one is rotated."
        )
    for sentence in limits.list_refusals():
        st.error(sentence)
    if uploads:
        return [Source(name_safely(file.name), file.file_id, file.getvalue) for file in uploads]
    if sample in SAMPLES:
        return [Source(sample, sample, _sample_path(sample).read_bytes)]
    return []


@st.cache_data
def _make_thumbnail(sample: str) -> str:
    """A sample as a data URL, at twice the size in which it is shown, for screens with fine pixels."""
    pixels = np.asarray(Image.open(_sample_path(sample)))  # samples are gray
    return to_data_url(shrink(pixels, 2 * SAMPLE_PX), "JPEG", quality=85)


def name_safely(name: str) -> str:
    """A file name that is safe to show and to write into a table."""
    return to_printable(name) or "(no name)"


def explain() -> None:
    """Show what a first visitor reads instead of a result."""
    st.info(
        "**Drop a film or click a sample.**  \n"
        "You get a probability of pneumonia, the regions that it came from, and how long it took.  \n"
        "The model learned from children of one hospital, and it says if a film is unlike those it knows."
    )


def decode(source: Source) -> ShownFilm:
    """Decode a file, but only once while the session shows it. It is read when its turn has come.

    Raises:
        InvalidImageError: if the file cannot be scored.
    """
    queue = st.empty()  # in each run, because elements that follow would lose their state otherwise
    slot = get_state().slot
    if slot.key != source.key:
        slot.key, slot.film, slot.error = source.key, None, None
    if slot.error is not None:  # a hostile file must not cost as much again in each run
        raise slot.error
    shown = slot.film or _decode(source, slot, queue)
    _keep(slot, shown)
    return shown


def _decode(source: Source, slot: FilmSlot, queue: DeltaGenerator) -> ShownFilm:
    start, digest = time.perf_counter(), ""

    def wait(ahead: int) -> None:
        nonlocal start
        if ahead:  # the time for other films does not count
            start = time.perf_counter()
        tell_queue(queue, ahead)

    def read() -> bytes:
        nonlocal digest
        data = source.read()
        digest = hashlib.sha256(data).hexdigest()
        return data

    try:
        with st.spinner("Reading the film"):
            film = read_film(read, wait)
    except InvalidImageError as error:
        slot.error = error
        raise
    decode_ms = (time.perf_counter() - start) * 1e3
    queue.empty()
    return ShownFilm(film.pixels, film.pixels.shape, film.notes, digest, decode_ms)


def tell_queue(place: DeltaGenerator, ahead: int) -> None:
    """Say in ``place`` how many films wait before this one, if any does.

    Streamlit ends the run of the page here if the visitor has left.
    """
    films = "1 film is" if ahead == 1 else f"{ahead} films are"
    place.caption(f"Waiting: {films} before yours.") if ahead else place.empty()


def _keep(slot: FilmSlot, film: ShownFilm) -> None:
    """Keep a film for the next run of its session, and drop the films that were shown least recently."""
    slot.film, slot.used = film, time.monotonic()
    with _slots_lock:
        _slots.add(slot)
        total = 0
        for other in sorted(_slots, key=lambda other: other.used, reverse=True):
            kept = other.film
            total += 0 if kept is None else kept.pixels.nbytes
            if total > MAX_KEPT_BYTES:
                other.film = None


def _sample_path(sample: str) -> Path:
    return SAMPLES_DIR / f"{sample}.png"


def _take_sample(sample: str) -> None:
    _empty_drop_zone()
    st.query_params["sample"] = sample


def _forget_sample() -> None:
    st.query_params.pop("sample", None)


def _empty_drop_zone() -> None:
    """Remove the uploads from the server and from the page."""
    limits.release(list_uploads())
    get_state().emptied += 1
