"""What a visitor's session keeps from one run of the page to the next, and the keys of its widgets.

``st.session_state`` holds one ``PageState`` and the values of the widgets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Hashable, Sequence

import numpy as np
import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from cxr import Latency
from cxr.rows import Row

PAGE_STATE = "page_state"
MODEL, THREADS = "model", "threads"  # these two are also the names in the address
COMPARE, THRESHOLD, VIEWER, WHAT_IF = "compare", "threshold", "viewer", "what_if"
PREVALENCE = "prevalence"
EXPLORER, ELSEWHERE, ABOUT, SAVING = "explorer", "elsewhere", "about", "saving"  # what can be opened
BATCH_VIEW, BATCH_ORDER, BATCH_ANYWAY = "batch_view", "batch_order", "batch_anyway"


@dataclasses.dataclass(frozen=True)
class ShownFilm:
    """A decoded film.

    Attributes:
        pixels: uint8 (H, W), or a smaller copy of them where that is enough.
        size: H and W as they were decoded, px.
        notes: sentences that a viewer should know.
        digest: the sha256 of its file.
        decode_ms: how long decoding took.
        was_inverted: whether ``pixels`` were inverted because the visitor requested it.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    notes: tuple[str, ...]
    digest: str
    decode_ms: float
    was_inverted: bool = False


@dataclasses.dataclass(eq=False)  # it is a member of a set, and its film changes
class FilmSlot:
    """The film that a session shows. Other sessions may empty it; the film is then decoded again.

    Attributes:
        key: the key of its file.
        film: the film as it was decoded, or None.
        full: whether the film is inverted, and a data URL of it in its own resolution; None until the
            visitor enlarges it.
        error: what was received, if it cannot be scored, or None.
        used: when it was last shown, by the monotonic clock, s.
    """

    key: str = ""
    film: ShownFilm | None = None
    full: tuple[bool, str] | None = None
    error: str | None = None
    used: float = 0.0

    def empty(self) -> None:
        """Forget the film and what was made of it."""
        self.film = self.full = self.error = None


@dataclasses.dataclass(frozen=True)
class Drawing:
    """The pictures of a film and of its evidence, and how long it took to make them.

    Attributes:
        pixels: the film in the size in which it is shown, uint8 (h, w).
        film: that as a data URL.
        layer: the evidence as a data URL, or None if the film is refused.
        outline: of the lungs, likewise.
        draw_ms: the time for resizing, coloring and encoding.
    """

    pixels: np.ndarray
    film: str
    layer: str | None
    outline: str | None
    draw_ms: float


@dataclasses.dataclass
class PageState:
    """The session's own state, without the values of widgets.

    Attributes:
        emptied: how often the drop zone was emptied; a new key gives an empty widget.
        slot: the film that is shown.
        recent: title, verdict and thumbnail (a data URL) of the films that were shown, by key.
        picked: the key of the film that is shown among many, or nothing.
        picks: how often a film was picked beside the table; a new key removes the table's own mark.
        rows: rows of the batch, by the key of the file and the sha256 of the model.
        inversion_requested: digests of the films that the visitor wants to see inverted.
        overridden: digests of the refused films whose score the visitor wants to see.
        drawing: what the drawing depends on, and the drawing.
        latencies: by the number of models, what the measurements depend on, and the measurements.
    """

    emptied: int = 0
    slot: FilmSlot = dataclasses.field(default_factory=FilmSlot)
    recent: dict[str, tuple[str, str, str]] = dataclasses.field(default_factory=dict)
    picked: str = ""
    picks: int = 0
    rows: dict[tuple[str, str], Row] = dataclasses.field(default_factory=dict)
    inversion_requested: set[str] = dataclasses.field(default_factory=set)
    overridden: set[str] = dataclasses.field(default_factory=set)
    drawing: tuple[Hashable, Drawing] | None = None
    latencies: dict[int, tuple[Hashable, list[Latency]]] = dataclasses.field(default_factory=dict)

    def forget_films(self, kept: Container[str]) -> None:
        """Forget the films, and what was made of them, but for the samples and files in ``kept``."""

        def is_kept(key: str) -> bool:
            return key.partition("/")[0] in kept  # FILE/INDEX in a ZIP

        if not is_kept(self.slot.key):
            self.slot.key = ""
            self.slot.empty()
            self.drawing = None
            self.latencies.clear()
        if not is_kept(self.picked):
            self.picked = ""
        self.recent = {key: face for key, face in self.recent.items() if is_kept(key)}
        self.rows = {key: row for key, row in self.rows.items() if is_kept(key[0])}


def get_state() -> PageState:
    """The state of the session that runs."""
    if PAGE_STATE not in st.session_state:
        st.session_state[PAGE_STATE] = PageState()
    return st.session_state[PAGE_STATE]


def find_pixels(film: ShownFilm) -> np.ndarray | None:
    """The pixels of a film, uint8 (H, W), as decoded; None if the session no longer has them."""
    decoded = get_state().slot.film
    if decoded is None or decoded.digest != film.digest:
        return None
    return 255 - decoded.pixels if film.was_inverted else decoded.pixels


def drop_zone_key() -> str:
    """The key of the drop zone, which is another one each time that it was emptied."""
    return f"upload_{get_state().emptied}"


def list_uploads() -> Sequence[UploadedFile]:
    """The files in the drop zone, also before it is drawn."""
    return st.session_state.get(drop_zone_key()) or ()
