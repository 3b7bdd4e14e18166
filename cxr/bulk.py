"""Any number of films on all cores of a machine or a cluster, with Ray Data. Not for medical use."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import logging
import os
import socket
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs
from tqdm import tqdm

from cxr.classifier import Classifier, find_model
from cxr.decoding import share_pool
from cxr.errors import InvalidImageError
from cxr.files import SUFFIXES, is_folder, list_files
from cxr.imaging import EXTENSIONS, is_dicom
from cxr.model_card import ModelCard
from cxr.results import (
    CARD_KEY,
    SCHEMA,
    SOURCE_KEY,
    BulkError,
    check_writable,
    first_line,
    hold,
    list_objects,
    locate,
    read_rows,
    refuse,
    write_rows,
)
from cxr.rows import Row, fail_film, score_film

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # on stderr; that a worker died is none here

FILMS_PER_BLOCK = 64  # what a worker takes at a time, and what is scored again when it dies
FILMS_PER_FILE = 1024  # and what is scored again when the whole run is killed
MAX_DEATHS = 2  # workers that a film may take with it, after the first, before it is given up
STORE_BYTES = 256 * 2**20  # Ray's object store on one machine: it holds names and rows, never films
REMOTE_READS = 4  # films that a worker reads at once from a store: most of the time it waits for it
CONNECT_S = 5.0  # until a RAY_ADDRESS counts as dead; Ray itself waits for minutes


@dataclasses.dataclass
class Outcome:
    """What a run did.

    Attributes:
        scored: films scored now.
        earlier: films that had a row already.
        failed: films of both that have an error.
        left_out: folders that were not looked into, and why, which completes "Received ...".
    """

    scored: int
    earlier: int
    failed: int
    left_out: dict[str, str]


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
            reason = os.strerror(error.errno) if error.errno else first_line(error)
            return _fail(film, f"a path that cannot be read ({reason})")
        except Exception as error:  # Ray would score the block again, for ever
            return fail_film(_to_text(film), error)

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


def score_folder(source: str, out: str, model: str = "int8", workers: int | None = None) -> Outcome:
    """Score the films of a folder that have no row yet, and write their rows to Parquet files.

    Args:
        source: a folder, or the URI of one that ``pyarrow.fs`` knows, such as ``s3://bucket/films``.
        out: a folder or URI; made if there is none.
        model: as ``Classifier.load`` takes it.
        workers: processes with one model each; by default as many as there are CPUs.

    Raises:
        BulkError: if a folder cannot be read or written, holds no film or other results, or
            another run's, or if Ray fails.
        InvalidModelError: as ``Classifier.load`` raises it.
    """
    films, left_out, filesystem, root = _list_films(source)
    card = Classifier.load(model).card
    file = find_model(model).read_bytes()  # sent to the workers, so that all have the same
    schema = SCHEMA.with_metadata({CARD_KEY: _digest(card), SOURCE_KEY: _identify(source)})
    store, folder = locate(out)
    check_writable(store, folder)
    with hold(store, folder):
        counts = _score_missing(films, workers, (file, card, filesystem, root), (store, folder, schema))
    if not any(counts):
        raise _no_film(source, left_out)
    return Outcome(*counts, left_out)


def _score_missing(
    films: dict[str, bytes],
    workers: int | None,
    model: tuple[Any, ...],
    results: tuple[fs.FileSystem, str, pa.Schema],
) -> tuple[int, int, int]:
    """Films scored now, films that had a row already, and those of both that failed."""
    done = [error for path, error in read_rows(*results) if films.pop(path, None)]
    earlier, scored, failed = len(done), 0, len(done) - done.count(None)
    rows: list[Row] = []
    scores = _score(list(films.values()), workers, model)
    try:
        for row in tqdm(scores, total=len(films), unit="film", disable=None):
            if films.pop(row["path"], None) is None:
                continue  # Ray may make a block twice
            if row["label"] is None and row["error"] is None:
                continue  # no film
            rows.append(row)
            scored += 1
            failed += row["error"] is not None
            if len(rows) == FILMS_PER_FILE:
                write_rows(rows, *results)
                rows = []
    finally:  # what was scored is kept, whatever stops the run
        scores.close()
        if rows:
            write_rows(rows, *results)
    if films:
        raise BulkError(f"Ray ended without a row for {len(films)} films; run the same command again.")
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
    with refuse("a RAY_ADDRESS where no cluster answers"):
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
        reason = first_line(error)
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


def _list_films(source: str) -> tuple[dict[str, bytes], dict[str, str], fs.FileSystem | None, str]:
    """What may be films, as text and as the file system has it; folders that were left out, and why; and
    how to open the films: without a file system in the folder that follows, with one after leaving out
    the prefix that follows."""
    filesystem, folder, root, prefix = None, source, str(Path.cwd()), ""
    if "://" in source:
        filesystem, folder = locate(source)
        root = prefix = source.partition("://")[0] + "://"
    elif not is_folder(Path(source)):
        raise BulkError(f"Received {source}, which is no folder; accepted is a folder or a URI of one.")
    if filesystem is None or isinstance(filesystem, fs.LocalFileSystem):
        found = {f"{prefix}{path}": reason for path, reason in list_files(Path(folder)).items()}
    else:
        found = {prefix + info.path: None for info in list_objects(filesystem, folder) if _is_named(info)}
    films = {_to_text(name): os.fsencode(name) for name, reason in found.items() if reason is None}
    left_out = {_to_text(name): reason for name, reason in found.items() if reason is not None}
    if not films:
        raise _no_film(source, left_out)
    return films, left_out, filesystem, root


def _is_named(info: fs.FileInfo) -> bool:
    return info.is_file and Path(info.path).suffix.lower() in SUFFIXES


def _fail(film: str, received: str) -> Row:
    return fail_film(_to_text(film), InvalidImageError(received))


def _no_film(source: str, left_out: dict[str, str]) -> BulkError:
    reasons = "".join(f", but for {path}, {reason}" for path, reason in left_out.items())
    return BulkError(
        f"Received {source} without a film{reasons}; accepted are {', '.join(EXTENSIONS)} and DICOM."
    )


def _to_text(name: str) -> str:
    """As ``predict`` prints it: file names need not be valid text."""
    return name.encode(errors="backslashreplace").decode()
