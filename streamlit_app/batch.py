"""Many films at once: progress, a sortable table, and a CSV file to keep."""

from __future__ import annotations

import csv
import hashlib
import io
import struct
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from cxr import Classifier, InvalidImageError, read_image
from cxr.cli import COLUMNS, score_film
from cxr.imaging import MAX_BYTES
from cxr.novelty import REFUSED, TYPICAL
from streamlit_app.film import Source, shrink, to_data_url

MAX_FILMS = 500
MAX_DIRECTORY_BYTES = 2**20
END_OF_DIRECTORY, ZIP64_LOCATOR = b"PK\x05\x06", b"PK\x06\x07"
THUMBNAIL_PX = 96
SHOWN = {
    "thumbnail": st.column_config.ImageColumn("film", width="small"),
    "path": st.column_config.TextColumn("file"),
    "label": st.column_config.TextColumn("verdict"),
    "probability": st.column_config.ProgressColumn(
        "probability", format="%.2f", min_value=0, max_value=1
    ),
    "uncertain": st.column_config.CheckboxColumn("uncertain"),
    "screening": st.column_config.TextColumn("screening"),
    "inverted": st.column_config.CheckboxColumn("inverted"),
    "error": st.column_config.TextColumn("error", width="large"),
}

Row = dict[str, Any]


def is_many(sources: Sequence[Source]) -> bool:
    """Whether the visitor brought more than one film."""
    return len(sources) > 1 or any(zipfile.is_zipfile(io.BytesIO(s.read())) for s in sources)


def show(sources: Sequence[Source], classifier: Classifier) -> Source | None:
    """Score all films, a bad file being one row. Returns the film that was picked in the table."""
    films = list(_unpack(sources))
    if len(films) > MAX_FILMS:
        st.warning(f"Received {len(films)} files; the first {MAX_FILMS} are scored.")
        films = films[:MAX_FILMS]
    anyway = st.checkbox("Show scores of refused films too", help="They mean little, and stay marked.")
    rows = [_withhold(row, anyway) for row in _score_all(films, classifier)]
    _summarize(rows)
    table = pd.DataFrame(rows)[list(SHOWN)]
    texts = ["label", "screening", "error"]
    table[texts] = table[texts].fillna("")
    picked = st.dataframe(
        table,
        column_config=SHOWN,
        row_height=56,
        on_select="rerun",
        selection_mode="single-row",
        key=f"batch {hash(tuple(film.name for film in films))}",  # other films, another choice
        hide_index=True,
        alt="A row a film: verdict, probability, screening, error",
    )
    st.download_button("Download as CSV", _to_csv(rows), "cxr_lite.csv", "text/csv", on_click="ignore")
    chosen = picked.selection.rows
    if not chosen:
        st.caption("Pick a row to see its film and evidence.")
        return None
    st.divider()
    return films[chosen[0]]


def _unpack(sources: Sequence[Source]) -> Iterator[Source]:
    """The files, and in place of a ZIP archive its members; nothing is written to a disk."""
    for source in sources:
        data = source.read()
        if not zipfile.is_zipfile(io.BytesIO(data)):
            yield source
            continue
        try:
            archive = _open_archive(data)
        except InvalidImageError as error:
            yield Source(source.name, _raiser(error))
            continue
        for member in archive.infolist():
            hidden = member.filename.startswith("__MACOSX/") or "/." in f"/{member.filename}"
            if not member.is_dir() and not hidden:
                yield Source(member.filename, _member_reader(archive, member))


def _open_archive(data: bytes) -> zipfile.ZipFile:
    """Open an archive whose directory is small: the library reads all of it at once.

    Raises:
        InvalidImageError: if it is damaged, or lists more than films.
    """
    end = data.rfind(END_OF_DIRECTORY)
    (directory_bytes,) = struct.unpack("<I", data[end + 12 : end + 16])
    if directory_bytes > MAX_DIRECTORY_BYTES or data[end - 20 : end].startswith(ZIP64_LOCATOR):
        raise InvalidImageError(f"a ZIP archive of far more than {MAX_FILMS} members")
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise InvalidImageError("a damaged ZIP archive") from error


def _raiser(error: InvalidImageError) -> Callable[[], bytes]:
    def read() -> bytes:
        raise error

    return read


def _member_reader(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            with archive.open(member) as file:
                return file.read(MAX_BYTES + 1)  # what a header says of the size need not be true
        except (
            RuntimeError,
            NotImplementedError,
            zipfile.BadZipFile,
            OSError,
            EOFError,
            ValueError,
        ) as error:
            raise InvalidImageError("a member of a ZIP archive that is damaged or encrypted") from error

    return read


def _score_all(films: Sequence[Source], classifier: Classifier) -> list[Row]:
    """A row a film, each scored once in a session, under a progress bar with the time that is left."""
    known: dict[tuple[str, str], Row] = st.session_state.setdefault("rows", {})
    progress, start, rows = None, time.monotonic(), []
    for done, film in enumerate(films):
        if progress is not None:
            left_s = (time.monotonic() - start) / max(done, 1) * (len(films) - done)
            progress.progress(done / len(films), f"{done} of {len(films)} films, {left_s:.0f} s left")
        try:
            data = film.read()
        except InvalidImageError as error:
            rows.append(
                dict.fromkeys(COLUMNS) | {"thumbnail": None, "path": film.name, "error": str(error)}
            )
            continue
        key = hashlib.sha256(data).hexdigest(), classifier.card.sha256
        if key not in known:
            progress = progress or st.progress(0.0)
            known[key] = _score(data, classifier)
        rows.append(known[key] | {"path": film.name})
    if progress is not None:
        progress.empty()
    return rows


def _score(data: bytes, classifier: Classifier) -> Row:
    row = score_film(classifier, "", io.BytesIO(data))
    thumbnail = None
    if row["error"] is None:
        thumbnail = to_data_url(shrink(read_image(io.BytesIO(data)), THUMBNAIL_PX), "JPEG", quality=80)
    return row | {"thumbnail": thumbnail}


def _withhold(row: Row, anyway: bool) -> Row:
    """A refused film's row without its score, but for those who want it anyway."""
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
    """The columns of ``python -m cxr predict --format csv``."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(row | {"path": _defuse(row["path"])} for row in rows)
    return file.getvalue()


def _defuse(name: str) -> str:
    """A file name that a spreadsheet takes for text and not for a formula."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t", "\r") else name
