"""Folders and URIs: the films that a source holds, and the Parquet rows that one run at a time writes."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import filelock
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from cxr.files import is_folder, list_files, may_be_film
from cxr.imaging import EXTENSIONS
from cxr.rows import COLUMNS, Row

CARD_KEY, SOURCE_KEY = b"cxr_card_sha256", b"cxr_source"  # in the metadata of the Parquet files
LOCK, MARKER = "_lock", "_running-"  # readers of Parquet folders skip names that begin with ``_``
TYPES = {
    "uncertain": pa.bool_(),
    "inverted": pa.bool_(),
    "lung_box": pa.list_(pa.float64()),
} | dict.fromkeys(("path", "label", "screening", "error"), pa.string())
SCHEMA = pa.schema([(name, TYPES.get(name, pa.float64())) for name in COLUMNS])


class BulkError(RuntimeError):
    """The run cannot start or continue; the message says what was received and what is accepted."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The files of a source that may be films.

    Attributes:
        films: the path of each file as text, and as the bytes that its file system uses.
        left_out: folders that were skipped, and the reason, which completes "Received ...".
        filesystem: where the files are; None for paths relative to ``root``.
        root: the working directory; with a file system, the prefix of each path that its names lack.
    """

    films: dict[str, bytes]
    left_out: dict[str, str]
    filesystem: fs.FileSystem | None
    root: str


def list_films(place: str) -> Source:
    """List the files below a folder, or below the URI of one, that may be films.

    Raises:
        BulkError: if the place is not a folder, cannot be listed, or has no such file.
    """
    filesystem, folder, root, prefix = None, place, str(Path.cwd()), ""
    if "://" in place:
        filesystem, folder = locate(place)
        root = prefix = place.partition("://")[0] + "://"
    elif not is_folder(Path(place)):
        raise BulkError(f"Received {place}, which is no folder; accepted is a folder or a URI of one.")
    if filesystem is None or isinstance(filesystem, fs.LocalFileSystem):
        found = {f"{prefix}{path}": reason for path, reason in list_files(Path(folder)).items()}
    else:
        infos = list_objects(filesystem, folder)
        found = {prefix + info.path: None for info in infos if info.is_file and may_be_film(info.path)}
    films = {to_text(name): os.fsencode(name) for name, reason in found.items() if reason is None}
    left_out = {to_text(name): reason for name, reason in found.items() if reason is not None}
    if not films:
        raise no_film(place, left_out)
    return Source(films, left_out, filesystem, root)


def no_film(place: str, left_out: dict[str, str]) -> BulkError:
    """The error for a source without films."""
    reasons = "".join(f", but for {path}, {reason}" for path, reason in left_out.items())
    return BulkError(
        f"Received {place} without a film{reasons}; accepted are {', '.join(EXTENSIONS)} and DICOM."
    )


def identify(place: str) -> bytes:
    """What the paths of a source's films depend on: for a relative path, also the working directory."""
    is_absolute = "://" in place or Path(place).is_absolute()
    return os.fsencode(place if is_absolute else f"{place} in {Path.cwd()}")


def to_text(name: str) -> str:
    """Escape what is not valid text in a file name, as ``predict`` prints it."""
    return name.encode(errors="backslashreplace").decode()


def locate(place: str) -> tuple[fs.FileSystem, str]:
    """The file system of a folder or URI, and the folder's name there."""
    if "://" not in place:
        return fs.LocalFileSystem(), str(Path(place).absolute())
    with refuse("a URI that is not such as s3://bucket/folder or gs://bucket/folder"):
        return fs.FileSystem.from_uri(place)


def list_objects(filesystem: fs.FileSystem, folder: str, **options: bool) -> list[fs.FileInfo]:
    """List everything in a folder and below it."""
    with refuse(f"the folder {folder}, which cannot be listed"):
        return filesystem.get_file_info(fs.FileSelector(folder, recursive=True, **options))


def check_writable(store: fs.FileSystem, folder: str) -> None:
    """Raise ``BulkError`` before the first film is scored if the results could not be written."""
    file = f"{folder}/_{uuid.uuid4().hex}.part"
    with refuse(f"the folder {folder}, which cannot be written"):
        if isinstance(store, fs.LocalFileSystem):  # object stores have no folders
            store.create_dir(folder)
        store.open_output_stream(file).close()
        store.delete_file(file)


@contextlib.contextmanager
def hold(store: fs.FileSystem, folder: str) -> Iterator[None]:
    """Keep other runs away from a folder, and refuse it if another run writes to it.

    On a disk the operating system locks a file, and releases it however the process ends. A store has no
    locks: there each run first writes a marker and then looks for those of others. Of two runs that start
    together both may give up, but they never both continue, provided that the store lists all that was
    written before, as S3 and GCS do. The marker of a run that was killed stays, and the refusal names it.

    Raises:
        BulkError: if another run writes there, or the folder cannot be written.
    """
    if isinstance(store, fs.LocalFileSystem):
        lock = filelock.FileLock(f"{folder}/{LOCK}")
        with refuse(f"the folder {folder}, which cannot be locked"):
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout as error:
                raise _in_use(folder, "wait until it ends") from error
        try:
            yield
        finally:
            lock.release()
    else:
        marker = _mark(store, folder)
        try:
            yield
        finally:
            _delete(store, marker)


def read_rows(store: fs.FileSystem, folder: str, schema: pa.Schema) -> Iterator[tuple[str, str | None]]:
    """The path and the error of each row that earlier runs wrote."""
    for info in list_objects(store, folder, allow_not_found=True):
        if info.extension != "parquet":
            continue
        with refuse(f"results with {info.base_name}, to be deleted as it is no whole Parquet file"):
            file = pq.ParquetFile(store.open_input_file(info.path))
            table = file.read(["path", "error"])
        metadata = file.schema_arrow.metadata or {}
        if metadata.get(CARD_KEY) != schema.metadata[CARD_KEY]:
            raise BulkError(
                f"Received results with {info.base_name}, which is of another model, card or program; "
                "accepted is a folder of this model's, or a new one."
            )
        if metadata.get(SOURCE_KEY) != schema.metadata[SOURCE_KEY]:
            raise BulkError(
                f"Received results with {info.base_name}, whose films come from another source or were "
                "named from another folder; accepted is the source as it was given, or a new folder."
            )
        yield from zip(table["path"].to_pylist(), table["error"].to_pylist(), strict=True)


def write_rows(rows: list[Row], store: fs.FileSystem, folder: str, schema: pa.Schema) -> None:
    """Write a Parquet file under a name that readers skip, and rename it when it is complete."""
    name = uuid.uuid4().hex
    with refuse(f"the folder {folder}, which cannot be written"):
        pq.write_table(pa.Table.from_pylist(rows, schema), f"{folder}/_{name}.part", filesystem=store)
        store.move(f"{folder}/_{name}.part", f"{folder}/{name}.parquet")


@contextlib.contextmanager
def refuse(received: str) -> Iterator[None]:
    """Turn an error of a file system or of Ray into a ``BulkError`` that says what was received."""
    try:
        yield
    except (OSError, ValueError, ImportError, NotImplementedError) as error:
        raise BulkError(f"Received {received} ({first_line(error)}).") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).partition("\n")[0]


def _mark(store: fs.FileSystem, folder: str) -> str:
    """Write a marker, and give up if there is another. Returns the marker's name."""
    marker = f"{folder}/{MARKER}{uuid.uuid4().hex}"
    start = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
    owner = f"process {os.getpid()} on {socket.gethostname()}, started {start}"
    with (
        refuse(f"the folder {folder}, which cannot be written"),
        store.open_output_stream(marker) as file,
    ):
        file.write(owner.encode())
    for info in list_objects(store, folder):
        if info.base_name.startswith(MARKER) and info.base_name != Path(marker).name:
            _delete(store, marker)
            with refuse(
                f"the folder {folder}, which another run has just left; run the same command again"
            ):
                owner = store.open_input_file(info.path).read().decode()
            raise _in_use(
                folder, f"wait until it has ended ({owner}), or delete {info.path} if it was killed"
            )
    return marker


def _delete(store: fs.FileSystem, marker: str) -> None:
    with refuse(f"the file {marker}, which cannot be deleted"):
        store.delete_file(marker)


def _in_use(folder: str, remedy: str) -> BulkError:
    return BulkError(f"Received results in {folder}, to which another run writes; {remedy}.")
