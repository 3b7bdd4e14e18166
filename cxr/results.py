"""A folder of results: Parquet files of one model and source, to which one run writes at a time."""

from __future__ import annotations

import contextlib
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

from cxr.rows import COLUMNS, Row

CARD_KEY, SOURCE_KEY = b"cxr_card_sha256", b"cxr_source"  # in the metadata of the Parquet files
LOCK, MARKER = "_lock", "_running-"  # readers of folders pass over names that begin with ``_``
TYPES = {"uncertain": pa.bool_(), "inverted": pa.bool_()} | dict.fromkeys(
    ("path", "label", "screening", "error"), pa.string()
)
SCHEMA = pa.schema([(name, TYPES.get(name, pa.float64())) for name in COLUMNS])


class BulkError(RuntimeError):
    """The run cannot start or go on; the message says what was received and what is accepted."""


def locate(place: str) -> tuple[fs.FileSystem, str]:
    """The file system of a folder or URI, and the folder's name there."""
    if "://" not in place:
        return fs.LocalFileSystem(), str(Path(place).absolute())
    with refuse("a URI that is not such as s3://bucket/folder or gs://bucket/folder"):
        return fs.FileSystem.from_uri(place)


def list_objects(filesystem: fs.FileSystem, folder: str, **options: bool) -> list[fs.FileInfo]:
    """All that is in a folder and below it."""
    with refuse(f"the folder {folder}, which cannot be listed"):
        return filesystem.get_file_info(fs.FileSelector(folder, recursive=True, **options))


def check_writable(store: fs.FileSystem, folder: str) -> None:
    """Now, and not when the first films are scored."""
    file = f"{folder}/_{uuid.uuid4().hex}.part"
    with refuse(f"the folder {folder}, which cannot be written"):
        if isinstance(store, fs.LocalFileSystem):  # object stores have no folders
            store.create_dir(folder)
        store.open_output_stream(file).close()
        store.delete_file(file)


@contextlib.contextmanager
def hold(store: fs.FileSystem, folder: str) -> Iterator[None]:
    """Refuse a folder to which another run writes, and keep other runs away from it.

    On a disk the operating system locks a file, and lets go of it when the process ends, however it ends.
    A store has no locks: there each run writes a marker first and looks for those of others second. Of
    two runs that start together both may give up, but they never both go on, if the store lists all that
    was written before, as S3 and GCS do. The marker of a run that was killed stays; the refusal names it.

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


def _mark(store: fs.FileSystem, folder: str) -> str:
    """Write a marker, and look for others."""
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


def read_rows(store: fs.FileSystem, folder: str, schema: pa.Schema) -> Iterator[tuple[str, str | None]]:
    """The path and the error of each row of earlier runs."""
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
    """To a file that has its name once it is whole; readers of folders pass over ``_``."""
    name = uuid.uuid4().hex
    with refuse(f"the folder {folder}, which cannot be written"):
        pq.write_table(pa.Table.from_pylist(rows, schema), f"{folder}/_{name}.part", filesystem=store)
        store.move(f"{folder}/_{name}.part", f"{folder}/{name}.parquet")


@contextlib.contextmanager
def refuse(received: str) -> Iterator[None]:
    """What a file system or Ray says of a user's folder or address, as a ``BulkError``."""
    try:
        yield
    except (OSError, ValueError, ImportError, NotImplementedError) as error:
        raise BulkError(f"Received {received} ({first_line(error)}).") from error


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
