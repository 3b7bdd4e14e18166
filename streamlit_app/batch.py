"""Many films: progress, a table that can be sorted, and a CSV file to download."""

from __future__ import annotations

import hashlib
import io
import itertools
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from cxr import Classifier, ModelCard
from cxr.novelty import REFUSED, TYPICAL
from cxr.rounding import count_digits
from cxr.rows import COLUMNS, Row, fail_film, score_film
from cxr.tables import write_csv
from streamlit_app.archive import is_archive, unpack
from streamlit_app.film import Source, tell_queue
from streamlit_app.screening import override
from streamlit_app.state import batch_key, get_state
from streamlit_app.viewer import shrink, to_data_url

MAX_FILMS = 500
MAX_BATCH_BYTES = 2**30  # unpacked
THUMBNAIL_PX = 96
SHOWN = {
    "thumbnail": st.column_config.ImageColumn("film", width="small"),
    "path": st.column_config.TextColumn("file"),
    "label": st.column_config.TextColumn("verdict"),
    "uncertain": st.column_config.CheckboxColumn("uncertain"),
    "screening": st.column_config.TextColumn("screening"),
    "inverted": st.column_config.CheckboxColumn("inverted"),
    "error": st.column_config.TextColumn("error", width="large"),
}

ORDER = ("thumbnail", "path", "label", "probability", "uncertain", "screening", "inverted", "error")


def is_many(sources: Sequence[Source]) -> bool:
    """Whether the visitor brought more than one film."""
    return len(sources) > 1 or any(is_archive(source.read()) for source in sources)


def show(sources: Sequence[Source], classifier: Classifier) -> Source | None:
    """Score all films; a bad file is a row, too. Returns the film that is selected in the table."""
    films = list(itertools.islice(unpack(sources), MAX_FILMS + 1))
    if not films:
        st.error("This archive cannot be scored. Received a ZIP archive without files.")
        return None
    if len(films) > MAX_FILMS:
        st.warning(f"Received more than {MAX_FILMS} files; the first {MAX_FILMS} are scored.")
        films = films[:MAX_FILMS]
    anyway = st.checkbox(
        "Show scores of refused films too", help="They are hardly reliable, and stay marked."
    )
    rows = [_withhold(row, anyway) for row in _score_all(films, classifier)]
    columns = SHOWN | {"probability": _format_column(rows, classifier.card)}
    _summarize(rows)
    table = pd.DataFrame(rows)[list(ORDER)]
    texts = ["label", "screening", "error"]
    table[texts] = table[texts].fillna("")
    picked = st.dataframe(
        table,
        column_config=columns,
        column_order=ORDER,
        row_height=56,
        on_select="rerun",
        selection_mode="single-row",
        key=batch_key([source.key for source in sources]),
        hide_index=True,
        alt="One row per film: verdict, probability, screening, error",
    )
    st.download_button("Download as CSV", _to_csv(rows), "cxr_lite.csv", "text/csv", on_click="ignore")
    chosen = picked.selection.rows
    if not chosen:
        st.caption("Pick a row to see its film and evidence.")
        return None
    st.divider()
    film, row = films[chosen[0]], rows[chosen[0]]
    if anyway and row["screening"] == REFUSED:
        override(hashlib.sha256(film.read()).hexdigest())
    return film


def _score_all(films: Sequence[Source], classifier: Classifier) -> list[Row]:
    """Score each film once in a session, with a progress bar and the remaining time."""
    known = get_state().rows
    missing = [film for film in films if (film.key, classifier.card.sha256) not in known]
    if missing:
        progress, queue = st.progress(0.0), st.empty()
        start, total_bytes = time.monotonic(), 0
        for done, film in enumerate(missing):
            left_s = (time.monotonic() - start) / max(done, 1) * (len(missing) - done)
            text = f"{done} of {len(missing)} films" + (f", {left_s:.0f} s left" if done else "")
            progress.progress(done / len(missing), text)
            row, size = _score(film, classifier, MAX_BATCH_BYTES - total_bytes, queue)
            known[film.key, classifier.card.sha256] = row
            total_bytes += size
        progress.empty()
        queue.empty()
    here = {film.key for film in films}
    for key in [key for key in known if key[0] not in here]:  # only this batch is kept
        del known[key]
    return [known[film.key, classifier.card.sha256] for film in films]


def _score(
    film: Source, classifier: Classifier, bytes_left: int, queue: DeltaGenerator
) -> tuple[Row, int]:
    """The row of a film with its thumbnail, and the number of bytes that were read."""
    empty = dict.fromkeys(COLUMNS) | {"path": film.name, "thumbnail": None}
    if bytes_left <= 0:
        too_much = f"Received more than {MAX_BATCH_BYTES // 2**20} MB at once; this file was not read."
        return empty | {"error": too_much}, 0
    size = 0

    def read() -> bytes:
        nonlocal size
        data = film.read()
        size = len(data)
        return data

    try:
        row, pixels = score_film(classifier, film.name, read, lambda ahead: tell_queue(queue, ahead))
        if pixels is not None:
            row["thumbnail"] = to_data_url(shrink(pixels, THUMBNAIL_PX), "JPEG", quality=80)
    except Exception as error:  # the other films are scored
        row = fail_film(film.name, error)
    return empty | row, max(size, MAX_BATCH_BYTES // MAX_FILMS if row["error"] else 0)


def _format_column(rows: Sequence[Row], card: ModelCard) -> dict[str, Any]:
    """The column of probabilities, with enough decimals to tell each from the threshold."""
    shown = [row["probability"] for row in rows if row["probability"] is not None]
    digits = max([2, *(count_digits(p, card.threshold, *card.uncertain) for p in shown)])
    return st.column_config.ProgressColumn("probability", format=f"%.{digits}f", min_value=0, max_value=1)


def _withhold(row: Row, anyway: bool) -> Row:
    """Remove the score from the row of a refused film, unless the visitor wants it anyway."""
    if anyway or row["screening"] != REFUSED:
        return row
    return row | dict.fromkeys(("label", "probability", "uncertain", "viral_probability"))


def _summarize(rows: Sequence[Row]) -> None:
    failed = sum(row["error"] is not None for row in rows)
    odd = sum(row["screening"] not in (None, TYPICAL) for row in rows)
    positive = sum(row["label"] == "PNEUMONIA" for row in rows)
    scored = sum(row["label"] is not None for row in rows)
    st.subheader(f"{positive} of {scored} films: pneumonia likely", anchor=False)
    st.caption(
        f"{len(rows)} files: {scored} scored, {odd} unlike the films that the model knows (unfamiliar or "
        f"refused), {failed} that could not be read."
    )


def _to_csv(rows: Sequence[Row]) -> str:
    """The same CSV as ``python -m cxr predict --format csv`` writes."""
    file = io.StringIO()
    write_csv(rows, file)
    return file.getvalue()
