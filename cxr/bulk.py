"""Any number of films on all cores of a machine or a cluster, with Ray Data. Not for medical use."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import socket
import uuid
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from tqdm import tqdm

from cxr.classifier import Classifier, find_model
from cxr.decoding import share_pool
from cxr.errors import InvalidImageError
from cxr.imaging import EXTENSIONS, is_dicom
from cxr.model_card import ModelCard
from cxr.rows import COLUMNS, Row, score_film

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # on stderr; that a worker died is none here

FILMS_PER_BLOCK = 64  # what a worker takes at a time, and what is scored again when it dies
FILMS_PER_FILE = 1024  # and what is scored again when the whole run is killed
MAX_DEATHS = 2  # workers that a film may take with it, after the first, before it is given up
STORE_BYTES = 256 * 2**20  # Ray's object store on one machine: it holds names and rows, never films
REMOTE_READS = 4  # films that a worker reads at once from a store: most of the time it waits for it
CARD_KEY, SOURCE_KEY = b"cxr_card_sha256", b"cxr_source"  # in the metadata of the Parquet files
CONNECT_S = 5.0  # until a RAY_ADDRESS counts as dead; Ray itself waits for minutes
TYPES = {"uncertain": pa.bool_(), "inverted": pa.bool_()} | dict.fromkeys(
    ("path", "label", "screening", "error"), pa.string()
)
SCHEMA = pa.schema([(name, TYPES.get(name, pa.float64())) for name in COLUMNS])


class BulkError(RuntimeError):
    """The run cannot start or go on; the message says what was received and what is accepted."""


class Attempts:
    """Counts what was begun and not ended, in a process of its own: it outlives a worker that dies."""

    def __init__(self) -> None:
        self._begun: collections.Counter[str] = collections.Counter()

    def begin(self, key: str) -> int:
        """How often it was begun, this time included."""
        self._begun[key] += 1
        return self._begun[key]

    def end(self, key: str) -> None:
        """Forget it."""
        del self._begun[key]


class Scorer:
    """A worker's model. Takes blocks of film names and gives their rows; Ray scores a block again, as
    often as it takes, when the worker dies on it."""

    def __init__(
        self, model: bytes, card: ModelCard, filesystem: fs.FileSystem | None, root: str, attempts: Any
    ) -> None:
        self._classifier = Classifier(model, card, num_threads=1)
        share_pool(workers=1)
        self._filesystem = filesystem
        self._root = root
        self._attempts = attempts

    def __call__(self, block: pa.Table) -> pa.Table:
        """The column ``film`` in, as bytes; rows of ``SCHEMA`` out."""
        films = [os.fsdecode(film) for film in block["film"].to_pylist()]
        name = f"block of {films[0]}"
        if self._begin(name) > 1:  # a worker has died on it
            rows = [self._score_noted(film) for film in films]
        else:
            with ThreadPoolExecutor(REMOTE_READS if self._filesystem else 1) as pool:
                rows = list(pool.map(self.score, films))
        self._attempts.end.remote(name)
        return pa.Table.from_pylist(rows, SCHEMA)

    def score(self, film: str) -> Row:
        """The row of ``predict``; of a file without extension that is no DICOM, the path alone."""
        try:
            with self._open(film) as file:
                if not Path(film).suffix and not is_dicom(file.read(132)):
                    return {"path": _to_text(film)}
                file.seek(0)
                return score_film(self._classifier, _to_text(film), file)[0]
        except OSError as error:  # gone, not permitted, or a store that does not answer
            reason = os.strerror(error.errno) if error.errno else _line(error)
            return _fail(film, f"a path that cannot be read ({reason})")

    def _score_noted(self, film: str) -> Row:
        """One film at a time, each noted before: so the one that kills its worker is found."""
        died = self._begin(film) > MAX_DEATHS
        row = _fail(film, "a file on which each worker died") if died else self.score(film)
        self._attempts.end.remote(film)
        return row

    def _begin(self, key: str) -> int:
        import ray

        return ray.get(self._attempts.begin.remote(key))

    def _open(self, film: str) -> Any:
        if self._filesystem is None:
            return Path(self._root, film).open("rb")
        return self._filesystem.open_input_file(film.removeprefix(self._root))


def score_folder(
    source: str, out: str, model: str = "int8", workers: int | None = None
) -> tuple[int, int, int]:
    """Score the films of a folder that have no row yet, and write their rows to Parquet files.

    Args:
        source: a folder, or the URI of one that ``pyarrow.fs`` knows, such as ``s3://bucket/films``.
        out: a folder or URI; made if there is none.
        model: as ``Classifier.load`` takes it.
        workers: processes with one model each; by default as many as there are CPUs.

    Returns:
        Films scored now, films that had a row already, and those of both that failed.

    Raises:
        BulkError: if a folder cannot be read or written, holds no film or other results, or if Ray fails.
        InvalidModelError: as ``Classifier.load`` raises it.
    """
    card = Classifier.load(model).card
    schema = SCHEMA.with_metadata({CARD_KEY: _digest(card), SOURCE_KEY: _identify(source)})
    films, filesystem, root = _list_films(source)
    store, folder = _locate(out)
    _check_writable(store, folder)
    done = [error for path, error in _read_rows(store, folder, schema) if films.pop(path, None)]
    earlier, scored, failed = len(done), 0, len(done) - done.count(None)
    rows: list[Row] = []
    file = find_model(model).read_bytes()  # sent to the workers, so that all have the same
    results = _score(list(films.values()), workers, (file, card, filesystem, root))
    try:
        for row in tqdm(results, total=len(films), unit="film", disable=None):
            if films.pop(row["path"], None) is None:
                continue  # Ray may make a block twice
            if row["label"] is None and row["error"] is None:
                continue  # no film
            rows.append(row)
            scored += 1
            failed += row["error"] is not None
            if len(rows) == FILMS_PER_FILE:
                _write_rows(rows, store, folder, schema)
                rows = []
    finally:  # what was scored is kept, whatever stops the run
        results.close()
        if rows:
            _write_rows(rows, store, folder, schema)
    if films:
        raise BulkError(f"Ray ended without a row for {len(films)} films; run the same command again.")
    if not scored + earlier:
        raise _no_film(source)
    return scored, earlier, failed


def _score(films: list[bytes], workers: int | None, model: tuple[Any, ...]) -> Generator[Row, None, None]:
    """Rows of films in any order, on Ray; ``model`` is what ``Scorer`` takes, but for the last."""
    if not films:
        return
    import ray
    import ray.data

    local = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    local |= {"object_store_memory": STORE_BYTES}
    options = {} if os.environ.get("RAY_ADDRESS") else local
    with _refuse("a RAY_ADDRESS where no cluster answers"):
        _connect(os.environ.get("RAY_ADDRESS", ""))
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
    try:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        ray.data.DataContext.get_current().enable_progress_bars = False  # they count blocks
        workers = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        size = max(min(FILMS_PER_BLOCK, len(films) // (4 * workers)), 1)
        blocks = [pa.table({"film": films[i : i + size]}) for i in range(0, len(films), size)]
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
        results = ray.data.from_arrow(blocks).map_batches(
            Scorer,
            fn_constructor_args=(*model, attempts),
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
            num_cpus=1,
        )
        for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from table.to_pylist()
    except ray.exceptions.ActorDiedError as error:  # on its start; Ray replaces those that die later
        reason = str(error).strip().splitlines()[-1]
        raise BulkError(
            f"Received a cluster whose workers do not start ({reason}); accepted is one with this "
            "checkout and its requirements on each node."
        ) from error
    except ray.exceptions.RayError as error:
        reason = _line(error)
        raise BulkError(f"Ray has failed ({reason}); run the same command again.") from error
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    """Raise ``OSError`` where nothing listens at HOST:PORT, with or without ``ray://`` before it."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), CONNECT_S).close()


def _digest(card: ModelCard) -> str:
    """Of all that a row depends on: the model's sha256 is in its card."""
    return hashlib.sha256(json.dumps(dataclasses.asdict(card), sort_keys=True).encode()).hexdigest()


def _identify(source: str) -> bytes:
    """What a film's path stands for: a relative one depends on where it was given."""
    is_whole = "://" in source or Path(source).is_absolute()
    return os.fsencode(source if is_whole else f"{source} in {Path.cwd()}")


def _list_films(source: str) -> tuple[dict[str, bytes], fs.FileSystem | None, str]:
    """What may be films, as text and as the file system has it; and how to open them: without a file
    system in the folder that follows, with one after leaving out the prefix that follows."""
    if "://" in source:
        filesystem, folder = _locate(source)
        root = source.partition("://")[0] + "://"
        names = (root + info.path for info in _list_files(filesystem, folder) if info.is_file)
    elif Path(source).is_dir():
        filesystem, root = None, str(Path.cwd())
        names = (str(path) for path in Path(source).rglob("*") if path.is_file())
    else:
        raise BulkError(f"Received {source}, which is no folder; accepted is a folder or a URI of one.")
    suffixes = ("", *EXTENSIONS)
    films = {_to_text(n): os.fsencode(n) for n in names if Path(n).suffix.lower() in suffixes}
    if not films:
        raise _no_film(source)
    return films, filesystem, root


def _locate(place: str) -> tuple[fs.FileSystem, str]:
    if "://" not in place:
        return fs.LocalFileSystem(), str(Path(place).absolute())
    with _refuse("a URI that is not such as s3://bucket/folder or gs://bucket/folder"):
        return fs.FileSystem.from_uri(place)


def _list_files(filesystem: fs.FileSystem, folder: str, **options: bool) -> list[fs.FileInfo]:
    with _refuse(f"the folder {folder}, which cannot be listed"):
        return filesystem.get_file_info(fs.FileSelector(folder, recursive=True, **options))


def _check_writable(store: fs.FileSystem, folder: str) -> None:
    """Now, and not when the first films are scored."""
    file = f"{folder}/_{uuid.uuid4().hex}.part"
    with _refuse(f"the folder {folder}, which cannot be written"):
        if isinstance(store, fs.LocalFileSystem):  # object stores have no folders
            store.create_dir(folder)
        store.open_output_stream(file).close()
        store.delete_file(file)


def _read_rows(store: fs.FileSystem, folder: str, schema: pa.Schema) -> Iterator[tuple[str, str | None]]:
    """The path and the error of each row of earlier runs."""
    for info in _list_files(store, folder, allow_not_found=True):
        if info.extension != "parquet":
            continue
        with _refuse(f"results with {info.base_name}, to be deleted as it is no whole Parquet file"):
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


def _write_rows(rows: list[Row], store: fs.FileSystem, folder: str, schema: pa.Schema) -> None:
    """To a file that has its name once it is whole; readers of folders pass over ``_``."""
    name = uuid.uuid4().hex
    with _refuse(f"the folder {folder}, which cannot be written"):
        pq.write_table(pa.Table.from_pylist(rows, schema), f"{folder}/_{name}.part", filesystem=store)
        store.move(f"{folder}/_{name}.part", f"{folder}/{name}.parquet")


@contextlib.contextmanager
def _refuse(received: str) -> Iterator[None]:
    """What a file system or Ray says of a user's folder or address, as a ``BulkError``."""
    try:
        yield
    except (OSError, ValueError, ImportError, NotImplementedError) as error:
        raise BulkError(f"Received {received} ({_line(error)}).") from error


def _fail(film: str, received: str) -> Row:
    return {"path": _to_text(film), "error": str(InvalidImageError(received))}


def _no_film(source: str) -> BulkError:
    return BulkError(f"Received {source} without a film; accepted are {', '.join(EXTENSIONS)} and DICOM.")


def _to_text(name: str) -> str:
    """As ``predict`` prints it: file names need not be valid text."""
    return name.encode(errors="backslashreplace").decode()


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
