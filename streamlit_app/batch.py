"""Many films: progress, a table or a gallery, steps from film to film, and a CSV file to download."""

from __future__ import annotations

import functools
import io
import itertools
import math
import time
from collections.abc import Sequence

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from cxr import Classifier, ModelCard
from cxr.novelty import REFUSED, TYPICAL
from cxr.rounding import format_probability
from cxr.rows import COLUMNS, Row, fail_film, score_film
from cxr.tables import write_csv
from streamlit_app import gallery
from streamlit_app.archive import is_archive, unpack
from streamlit_app.film import Source, tell_queue
from streamlit_app.gallery import Tile
from streamlit_app.state import BATCH_ANYWAY, BATCH_ORDER, BATCH_VIEW, get_state
from streamlit_app.verdict import tell_briefly, tell_label
from streamlit_app.viewer import shrink, to_data_url

MAX_FILMS = 500
MAX_BATCH_BYTES = 2**30  # unpacked
THUMBNAIL_PX = 112
# verdict and probability first, so that they are seen on a phone
SHOWN = {
    "thumbnail": st.column_config.ImageColumn("film", width="small"),
    "verdict": st.column_config.TextColumn("verdict", width="medium"),
    "probability": st.column_config.TextColumn("probability", width="small"),
    "path": st.column_config.TextColumn("file"),
    "uncertain": st.column_config.CheckboxColumn("uncertain"),
    "screening": st.column_config.TextColumn("screening"),
    "inverted": st.column_config.CheckboxColumn("inverted"),
    "error": st.column_config.TextColumn("error", width="large"),
}
TABLE, GALLERY = "Table", "Gallery"
RECEIVED, LIKELY, DOUBTFUL = "As received", "Most likely first", "Most doubtful first"


def is_many(sources: Sequence[Source]) -> bool:
    """Whether the visitor brought more than one film."""
    return len(sources) > 1 or any(is_archive(source.read()) for source in sources)


def show(sources: Sequence[Source], classifier: Classifier) -> tuple[Source | None, bool]:
    """Score all films; a bad file is a row, too.

    Returns:
        The film that the visitor has picked, and whether the scores of refused films are wanted too.
    """
    films = list(itertools.islice(unpack(sources), MAX_FILMS + 1))
    if not films:
        st.error("This archive cannot be scored. Received a ZIP archive without files.")
        return None, False
    if len(films) > MAX_FILMS:
        st.warning(f"Received more than {MAX_FILMS} files; the first {MAX_FILMS} are scored.")
        films = films[:MAX_FILMS]
    heading = st.empty()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        view = st.segmented_control(
            "View", (TABLE, GALLERY), default=TABLE, key=BATCH_VIEW, required=True
        )
        order = st.selectbox("Order", (RECEIVED, LIKELY, DOUBTFUL), key=BATCH_ORDER, width=200)
        anyway = st.checkbox(
            "Show scores of refused films too",
            key=BATCH_ANYWAY,
            help="They are hardly reliable, and stay marked.",
        )
    rows = [_withhold(row, anyway) for row in _score_all(films, classifier)]
    with heading.container():
        _summarize(rows)
    sorted_pairs = sorted(zip(films, rows, strict=True), key=lambda pair: _rank(pair[1], order))
    films_shown, rows_shown = map(list, zip(*sorted_pairs, strict=True))
    keys = [film.key for film in films_shown]
    show_all = _show_table if view == TABLE else _show_gallery
    show_all(keys, rows_shown, classifier.card)
    # the file has the order of what was received
    st.download_button("Download as CSV", _to_csv(rows), "cxr_lite.csv", "text/csv", on_click="ignore")
    picked = get_state().picked
    if picked not in keys:
        st.caption("Pick a film to see it with its evidence.")
        return None, anyway
    st.divider()
    at = keys.index(picked)
    _offer_steps(keys, at)
    return films_shown[at], anyway


def _rank(row: Row, order: str) -> float:
    """What rows are sorted by, ascending; rows without a score come last."""
    if order == RECEIVED:
        return 0.0
    if row["probability"] is None:
        return math.inf
    return -row["probability"] if order == LIKELY else abs(row["probability"] - row["threshold"])


def _show_table(keys: Sequence[str], rows: Sequence[Row], card: ModelCard) -> None:
    table = pd.DataFrame(rows)
    table["verdict"] = [_tell(row, card) for row in rows]
    table["probability"] = [_tell_probability(row, card) for row in rows]
    table = table[list(SHOWN)]
    texts = ["screening", "error"]
    table[texts] = table[texts].fillna("")
    # other films, another order or a pick elsewhere make another table, without the old selection
    key = f"table {get_state().picks} {' '.join(keys)}"

    def pick_row() -> None:
        marked = st.session_state[key].selection.rows
        get_state().picked = keys[marked[0]] if marked else ""

    st.dataframe(
        table,
        column_config=SHOWN,
        column_order=list(SHOWN),
        row_height=56,
        on_select=pick_row,
        selection_mode="single-row",
        key=key,
        hide_index=True,
        alt="One row per film: verdict, probability, screening, error",
    )


def _show_gallery(keys: Sequence[str], rows: Sequence[Row], card: ModelCard) -> None:
    picked = get_state().picked
    tiles = [
        Tile(key, row["path"], _tell_briefly(row, card), row["thumbnail"], key == picked)
        for key, row in zip(keys, rows, strict=True)
    ]
    gallery.show("gallery", "The films", tiles, THUMBNAIL_PX, _pick)


def _offer_steps(keys: Sequence[str], at: int) -> None:
    """Show buttons, which also have keys, to the films before and after this one."""
    with st.container(horizontal=True, vertical_alignment="center"):
        for title, to, shortcut in (("Previous film", at - 1, "P"), ("Next film", at + 1, "N")):
            is_there = 0 <= to < len(keys)
            key = keys[to] if is_there else ""
            st.button(title, on_click=_pick, args=(key,), disabled=not is_there, shortcut=shortcut)
        st.caption(f"Film {at + 1} of {len(keys)}")


def _pick(key: str) -> None:
    get_state().picked = key
    get_state().picks += 1


def _tell(row: Row, card: ModelCard) -> str:
    return "" if row["label"] is None else tell_label(row["label"], card)


def _tell_probability(row: Row, card: ModelCard) -> str:
    probability = row["probability"]
    return "" if probability is None else format_probability(probability, card.threshold, *card.uncertain)


def _tell_briefly(row: Row, card: ModelCard) -> str:
    """A verdict that fits below a thumbnail."""
    if row["error"]:
        return "not read"
    if row["probability"] is None:
        return "refused"
    verdict = tell_briefly(row["label"], row["screening"], card)
    return f"{verdict}, {_tell_probability(row, card)}"


def _score_all(films: Sequence[Source], classifier: Classifier) -> list[Row]:
    """Score each film once in a session, with a progress bar and the remaining time. Rows that failed for
    the machine are not kept, so the next run of the page tries again."""
    known, failed = get_state().rows, {}
    missing = [film for film in films if (film.key, classifier.card.sha256) not in known]
    if missing:
        progress, queue = st.progress(0.0), st.empty()
        start, total_bytes = time.monotonic(), 0
        for done, film in enumerate(missing):
            left_s = (time.monotonic() - start) / max(done, 1) * (len(missing) - done)
            text = f"{done} of {len(missing)} films" + (f", {left_s:.0f} s left" if done else "")
            progress.progress(done / len(missing), text)
            row, size, is_temporary = _score(film, classifier, MAX_BATCH_BYTES - total_bytes, queue)
            (failed if is_temporary else known)[film.key, classifier.card.sha256] = row
            total_bytes += size
        progress.empty()
        queue.empty()
    here = {film.key for film in films}
    for key in [key for key in known if key[0] not in here]:  # only this batch is kept
        del known[key]
    rows = known | failed
    return [rows[film.key, classifier.card.sha256] for film in films]


def _score(
    film: Source, classifier: Classifier, bytes_left: int, queue: DeltaGenerator
) -> tuple[Row, int, bool]:
    """The row of a film with its thumbnail, the number of bytes that were read, and whether the machine
    is the reason for an error."""
    empty = dict.fromkeys(COLUMNS) | {"path": film.name, "thumbnail": None}
    if bytes_left <= 0:
        too_much = f"Received more than {MAX_BATCH_BYTES // 2**20} MB at once; this file was not read."
        return empty | {"error": too_much}, 0, False
    size, is_temporary = 0, False

    def read() -> bytes:
        nonlocal size
        data = film.read()
        size = len(data)
        return data

    try:
        on_wait = functools.partial(tell_queue, queue)
        row, pixels, is_temporary = score_film(classifier, film.name, read, on_wait)
        if pixels is not None:
            row["thumbnail"] = to_data_url(shrink(pixels, THUMBNAIL_PX), "JPEG", quality=80)
    except Exception as error:  # the other films are scored
        row = fail_film(film.name, error)
    return empty | row, max(size, MAX_BATCH_BYTES // MAX_FILMS if row["error"] else 0), is_temporary


def _withhold(row: Row, anyway: bool) -> Row:
    """Remove the score from the row of a refused film, unless the visitor wants it anyway."""
    if anyway or row["screening"] != REFUSED:
        return row
    return row | dict.fromkeys(("label", "probability", "uncertain", "viral_probability"))


def _summarize(rows: Sequence[Row]) -> None:
    failed = sum(row["error"] is not None for row in rows)
    odd = sum(row["screening"] not in (None, TYPICAL) for row in rows)
    labels = [row["label"] for row in rows if row["screening"] != REFUSED]  # even if theirs are shown
    positive = labels.count("PNEUMONIA")
    scored = len(labels) - labels.count(None)
    st.subheader(f"{positive} of {scored} films: pneumonia likely", anchor=False)
    st.caption(
        f"{len(rows)} files: {scored} scored, {odd} unlike the films that the model knows (unfamiliar or "
        f"refused), {failed} that could not be read."
    )


def _to_csv(rows: Sequence[Row]) -> str:
    """A CSV with the columns of ``python -m cxr predict --format csv``."""
    file = io.StringIO()
    write_csv(rows, file)
    return file.getvalue()
