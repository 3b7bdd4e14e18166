"""Choose a film, and decode it."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image
from streamlit.delta_generator import DeltaGenerator

from cxr import Classifier, InvalidImageError, overlay_evidence, read_film
from cxr.errors import ACCEPTED, MAX_BYTES
from cxr.explanation import outline_lungs
from cxr.tables import to_printable
from streamlit_app import gallery, intake, limits
from streamlit_app.gallery import Tile
from streamlit_app.state import FilmSlot, ShownFilm, drop_zone_key, get_state, list_uploads
from streamlit_app.viewer import shrink, to_data_url

SAMPLES = {
    "normal_1": "Normal 1",
    "normal_2": "Normal 2",
    "pneumonia_1": "Pneumonia 1",
    "pneumonia_2": "Pneumonia 2",
    "uncertain": "Uncertain",
    "unfamiliar": "Unfamiliar",
    "refused": "Refused",
}
SAMPLES_DIR = Path(__file__).resolve().parent / "samples"
EXAMPLE, EXAMPLE_PX = "pneumonia_1", 360  # what a first visit shows
STEPS = (
    "A film: DICOM, JPEG, PNG and more. A first model finds the lungs. Only they are judged. A second "
    "model gives the probability, and where in the lungs it came from."
)
SAMPLE_PX = 68  # all fit beside the drop zone on a desktop
DROP_ZONE_PX = 208  # beside the samples
SAMPLES_HEIGHT_PX = 118  # with their names, and a bar to scroll them on a phone
RECENT_PX = 56
MAX_RECENT = 8
MAX_KEPT_BYTES = 200 * 2**20  # of decoded films and their pictures, in all sessions together


@dataclasses.dataclass(frozen=True)
class Source:
    """A file that is read when it is needed, with a key that is unique in the session."""

    name: str
    key: str
    read: Callable[[], bytes]


_slots: weakref.WeakSet[FilmSlot] = weakref.WeakSet()
_slots_lock = threading.Lock()


def is_chosen() -> bool:
    """Whether the address names a sample, or a file waits in the drop zone."""
    return st.query_params.get("sample") in SAMPLES or bool(list_uploads())


def choose() -> list[Source]:
    """Show the drop zone and the samples. Returns the chosen files, or none before a choice.

    The address names the chosen sample, so that the browser's Back and Forward show what was shown. While
    a sample is shown, the files in the drop zone wait.
    """
    limits.watch_session()
    sample = st.query_params.get("sample")
    # the same containers in both cases, because the browser would forget an upload in others
    has_film = is_chosen()
    row = st.container(horizontal=has_film, gap="small")
    with row.container(width=DROP_ZONE_PX if has_film else "stretch"):
        uploads = st.file_uploader(
            "Drop chest X-rays anywhere: one, many, or a ZIP",
            key=drop_zone_key(),
            accept_multiple_files=True,
            # the browser shows this number and counts in millions of bytes, so it refuses a little more
            max_upload_size=MAX_BYTES // 2**20,
            on_change=_show_uploads,
            help=f"Accepted: {ACCEPTED}. Files stay in this session's memory and are not stored.",
        )
        st.caption(
            f"Up to {limits.MAX_SESSION_BYTES // 2**20} MB a session. Files leave the server's memory "
            f"{limits.GRACE_S:.0f} s after the page is closed."
        )
        intake.listen()
    with row.container():
        _offer_samples(sample, None if has_film else SAMPLES_HEIGHT_PX)
        if has_film:
            _offer_recent(sample)
    if sample in SAMPLES:
        return [Source(sample, sample, _sample_path(sample).read_bytes)]
    for sentence in limits.list_refusals():
        st.error(sentence)
    return [Source(name_safely(file.name), file.file_id, file.getvalue) for file in uploads]


def _offer_samples(chosen: str | None, height_px: int | None) -> None:
    tiles = [
        Tile(name, title, "", _make_thumbnail(name), name == chosen) for name, title in SAMPLES.items()
    ]
    gallery.show("samples", "Samples", tiles, SAMPLE_PX, _show_sample, height_px)
    st.caption(
        "Each sample is a composite of nine children's films and shows no single patient. The unfamiliar "
        "one is rotated, and the refused one is a drawing."
    )


def _offer_recent(sample: str | None) -> None:
    """Show the other films that this session has shown and still has, and a way to close this one."""
    state = get_state()
    shown = sample or state.picked
    tiles = [Tile(key, *face, False) for key, face in state.recent.items() if key != shown]
    if tiles:
        gallery.show("recent", "Films shown before", tiles, RECENT_PX, _show_again)
    st.button("Close film" if sample or len(list_uploads()) == 1 else "Close films", on_click=_close)


def remember(source: Source, pixels: np.ndarray, verdict: str) -> None:
    """Note a film, uint8 (h, w), and its verdict among those that this session has shown."""
    recent = get_state().recent
    if source.key in recent:  # another model may say something else
        title, _, thumbnail = recent[source.key]
    else:
        title = SAMPLES.get(source.key, source.name)
        thumbnail = to_data_url(shrink(pixels, 2 * RECENT_PX), "JPEG", quality=80)
    recent[source.key] = title, verdict, thumbnail
    while len(recent) > MAX_RECENT:
        del recent[next(iter(recent))]


@st.cache_data
def _make_thumbnail(sample: str) -> str:
    """A sample as a data URL, at twice the size in which it is shown, for screens with fine pixels."""
    pixels = np.asarray(Image.open(_sample_path(sample)))  # samples are gray
    return to_data_url(shrink(pixels, 2 * SAMPLE_PX), "JPEG", quality=85)


def name_safely(name: str) -> str:
    """A file name that is safe to show and to write into a table."""
    return to_printable(name) or "(no name)"


def explain(classifier: Classifier) -> None:
    """Show what a first visitor reads instead of a result: what to do, and an example."""
    st.info(
        "**Drop a film, paste one, or click a sample.**  \n"
        "You get a probability of pneumonia, the regions that it came from, and how long it took.  \n"
        "The model learned from children of one hospital, and it says if a film is unlike those it knows."
    )
    picture = _make_example(classifier.card.sha256, classifier)
    st.image(picture, caption=STEPS, alt="A film, its lungs, and the evidence", width="stretch")


@st.cache_data
def _make_example(sha256: str, _classifier: Classifier) -> str:
    """A sample, its lungs and its evidence side by side, as a data URL; once for each model."""
    pixels = np.asarray(Image.open(_sample_path(EXAMPLE)))
    prediction, scale = _classifier.predict(pixels), _classifier.card.evidence_scale
    small = shrink(pixels, EXAMPLE_PX)
    line = outline_lungs(prediction.lungs, small.shape)
    film = np.repeat(small[..., np.newaxis], 3, axis=2)
    outlined = np.where(line[..., 3:] > 0, line[..., :3], film)
    evidence = overlay_evidence(small, prediction.evidence, scale)
    return to_data_url(np.hstack([film, outlined, evidence]), "JPEG", quality=80)


def decode(source: Source) -> ShownFilm:
    """Decode a file, but only once while the session shows it. It is read when its turn has come.

    Raises:
        InvalidImageError: if the file cannot be scored.
    """
    queue = st.empty()  # in each run, because elements that follow would lose their state otherwise
    slot = get_state().slot
    if slot.key != source.key:
        slot.key = source.key
        slot.empty()
    if slot.error is not None:  # a hostile file must not cost as much again in each run
        raise InvalidImageError(slot.error)
    shown = slot.film or _decode(source, slot, queue)
    _keep(slot, shown)
    return shown


def _decode(source: Source, slot: FilmSlot, queue: DeltaGenerator) -> ShownFilm:
    digest = ""

    def read() -> bytes:
        nonlocal digest
        data = source.read()
        digest = hashlib.sha256(data).hexdigest()
        return data

    try:
        with st.spinner("Reading the film"):
            film = read_film(read, lambda ahead: tell_queue(queue, ahead))
    except InvalidImageError as error:
        if not error.is_temporary:
            slot.error = error.received  # an exception would keep the file, by its traceback
        raise
    queue.empty()
    return ShownFilm(film.pixels, film.pixels.shape, film.notes, digest, film.decode_ms)


def tell_queue(place: DeltaGenerator, ahead: int) -> None:
    """Say in ``place`` how many films wait before this one, if any does.

    Streamlit ends the run of the page here if the visitor has left.
    """
    films = "1 film is" if ahead == 1 else f"{ahead} films are"
    place.caption(f"Waiting: {films} before yours.") if ahead else place.empty()


def _keep(slot: FilmSlot, film: ShownFilm) -> None:
    """Keep a film for the next run of its session, and empty the slots that were used least recently."""
    slot.film, slot.used = film, time.monotonic()
    with _slots_lock:
        _slots.add(slot)
        total = 0
        for other in sorted(_slots, key=lambda other: other.used, reverse=True):
            kept, full = other.film, other.full
            total += (0 if kept is None else kept.pixels.nbytes) + (0 if full is None else len(full[1]))
            if total > MAX_KEPT_BYTES:
                other.empty()


def _sample_path(sample: str) -> Path:
    return SAMPLES_DIR / f"{sample}.png"


def _show_sample(sample: str) -> None:
    st.query_params["sample"] = sample


def _show_uploads() -> None:
    """Show what was uploaded; of several films the last one. Forget what was removed."""
    st.query_params.pop("sample", None)
    files = [upload.file_id for upload in list_uploads()]
    get_state().forget_films({*SAMPLES, *files})
    get_state().picked = files[-1] if files else ""


def _show_again(key: str) -> None:
    """Show a film of this session again."""
    if key in SAMPLES:
        _show_sample(key)
    else:
        st.query_params.pop("sample", None)
        get_state().picked = key
        get_state().picks += 1


def _close() -> None:
    """Leave the sample, or remove the uploads, and all that was made of them, from the server."""
    if st.query_params.pop("sample", None) is None:
        limits.release(list_uploads())
        get_state().emptied += 1
        get_state().forget_films(SAMPLES)
