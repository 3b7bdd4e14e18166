"""Score films on Ray's workers, and survive workers that die."""

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

from cxr.bulk.stores import (
    CARD_KEY,
    SCHEMA,
    SOURCE_KEY,
    BulkError,
    check_writable,
    first_line,
    hold,
    identify,
    list_films,
    locate,
    no_film,
    read_rows,
    refuse,
    to_text,
    write_rows,
)
from cxr.classifier import Classifier, ModelFiles, read_files
from cxr.decoding import share_pool
from cxr.errors import InvalidImageError
from cxr.files import find_extension
from cxr.imaging import is_dicom
from cxr.model_card import ModelCard
from cxr.rows import Row, fail_film, score_film

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # stderr; the death of a worker is not fatal here

FILMS_PER_BLOCK = 64  # the films that a worker takes at a time, scored again if it dies
FILMS_PER_FILE = 1024  # the films that are scored again if the whole run is killed
SENT = SCHEMA.append(pa.field("temporary", pa.bool_()))  # what a worker sends of a film
MAX_DEATHS = 2  # workers that a film may kill, after the first, before it is given up
STORE_BYTES = 256 * 2**20  # Ray's object store on one machine: it holds names and rows, never films
REMOTE_READS = 4  # films that a worker reads from a store at once, as it mostly waits for the store
CONNECT_S = 5.0  # after which a RAY_ADDRESS counts as dead; Ray itself waits for minutes


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        scored: films that this run scored.
        earlier: films that had a row before.
        failed: films of both kinds whose row has an error.
        postponed: films that the machine failed on. They have no row, so the next run scores them.
        left_out: folders that were skipped, and the reason, which completes "Received ...".
    """

    scored: int
    earlier: int
    failed: int
    postponed: int
    left_out: dict[str, str]


class Attempts:
    """Counts work that was begun and not ended, in a process that survives a worker's death."""

    def __init__(self) -> None:
        self._begun: collections.Counter[str] = collections.Counter()

    def begin(self, key: str) -> int:
        """Count one more start. Returns how often the work was begun."""
        self._begun[key] += 1
        return self._begun[key]

    def end(self, key: str) -> None:
        """Forget the work."""
        del self._begun[key]


class Scorer:
    """A worker with a model: takes blocks of film names and returns their rows.

    Ray scores a block again, any number of times, when the worker dies on it.
    """

    def __init__(
        self, files: ModelFiles, filesystem: fs.FileSystem | None, root: str, attempts: Any
    ) -> None:
        self._classifier = Classifier.from_files(files)
        share_pool(workers=1)
        self._filesystem = filesystem
        self._root = root
        self._attempts = attempts

    def __call__(self, block: pa.Table) -> pa.Table:
        """Takes the column ``film``, as bytes. Returns rows of ``SENT``."""
        films = [os.fsdecode(film) for film in block["film"].to_pylist()]
        name = f"block of {films[0]}"
        if self._begin(name) > 1:  # a worker has died on it
            rows = [self._score_noted(film) for film in films]
        else:
            with ThreadPoolExecutor(REMOTE_READS if self._filesystem else 1) as pool:
                rows = list(pool.map(self.score, films))
        self._attempts.end.remote(name)
        return pa.Table.from_pylist(rows, SENT)

    def score(self, film: str) -> Row:
        """The row that ``predict`` prints, with ``temporary`` if the machine failed; a file without
        extension that is not DICOM has a path only."""
        try:
            with self._open(film) as file:
                if not find_extension(film) and not is_dicom(file.read(132)):
                    return {"path": to_text(film)}
                file.seek(0)
                scored = score_film(self._classifier, to_text(film), file)
                return scored.row | ({"temporary": True} if scored.is_temporary else {})
        except OSError as error:  # deleted, not permitted, or a store that does not answer
            reason = os.strerror(error.errno) if error.errno else first_line(error)
            return _fail(film, f"a path that cannot be read ({reason})")
        except Exception as error:  # otherwise Ray would score the block again forever
            return fail_film(to_text(film), error)

    def _score_noted(self, film: str) -> Row:
        """Score a film whose start is noted before, so that the film that kills its worker is found."""
        is_deadly = self._begin(film) > MAX_DEATHS
        row = _fail(film, "a file on which each worker died") if is_deadly else self.score(film)
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
        out: a folder or URI; it is made if it does not exist.
        model: as ``Classifier.load`` takes it.
        workers: processes with one model each; by default as many as there are CPUs.

    Raises:
        BulkError: if a folder cannot be read or written, if the source has no film, if ``out`` holds the
            results of another model or source or another run writes to it, or if Ray fails.
        InvalidModelError: as ``Classifier.load`` raises it.
    """
    found = list_films(source)
    files = read_files(model)  # sent to the workers, so that all have the same
    Classifier.from_files(files)  # fails here rather than in each worker
    schema = SCHEMA.with_metadata({CARD_KEY: digest(files.card), SOURCE_KEY: identify(source)})
    store, folder = locate(out)
    check_writable(store, folder)
    constructor_args = (files, found.filesystem, found.root)
    with hold(store, folder):
        counts = _score_missing(dict(found.films), workers, constructor_args, (store, folder, schema))
    if not any(counts):
        raise no_film(source, found.left_out)
    return Outcome(*counts, found.left_out)


def digest(card: ModelCard) -> str:
    """The sha256 of a card, which has those of both models: a row depends on nothing else."""
    return hashlib.sha256(json.dumps(dataclasses.asdict(card), sort_keys=True).encode()).hexdigest()


def _score_missing(
    films: dict[str, bytes],
    workers: int | None,
    constructor_args: tuple[Any, ...],
    results: tuple[fs.FileSystem, str, pa.Schema],
) -> tuple[int, int, int, int]:
    """Score the films that have no row; they are removed from ``films``.

    Returns:
        How many films were scored, how many had a row before, how many of both failed, and how many the
        machine failed on.
    """
    done = [error for path, error in read_rows(*results) if films.pop(path, None)]
    earlier, scored, failed, postponed = len(done), 0, len(done) - done.count(None), 0
    rows: list[Row] = []
    scores = _score(list(films.values()), workers, constructor_args)
    try:
        for row in tqdm(scores, total=len(films), unit="film", disable=None):
            if films.pop(row["path"], None) is None:
                continue  # Ray may make a block twice
            if row["label"] is None and row["error"] is None:
                continue  # the file is not a film
            if row["temporary"]:
                postponed += 1
                continue
            rows.append(row)
            scored += 1
            failed += row["error"] is not None
            if len(rows) == FILMS_PER_FILE:
                write_rows(rows, *results)
                rows = []
    finally:  # rows are kept whatever stops the run
        scores.close()
        if rows:
            write_rows(rows, *results)
    if films:
        raise BulkError(f"Ray ended without a row for {len(films)} films; run the same command again.")
    return scored, earlier, failed, postponed


def _score(
    films: list[bytes], workers: int | None, constructor_args: tuple[Any, ...]
) -> Generator[Row, None, None]:
    """Rows of films in any order, on Ray; the arguments are those of ``Scorer``, except the last."""
    if not films:
        return
    import ray
    import ray.data

    local = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    local |= {"object_store_memory": STORE_BYTES}
    options = {} if os.environ.get("RAY_ADDRESS") else local
    with refuse("a RAY_ADDRESS where no cluster answers"):
        _check_address(os.environ.get("RAY_ADDRESS", ""))
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
            fn_constructor_args=(*constructor_args, attempts),
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
            num_cpus=1,
        )
        for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from table.to_pylist()
    except ray.exceptions.ActorDiedError as error:  # at its start; Ray replaces those that die later
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


def _check_address(address: str) -> None:
    """Raise ``OSError`` if nothing listens at HOST:PORT, with or without ``ray://`` before it."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), CONNECT_S).close()


def _fail(film: str, received: str) -> Row:
    return fail_film(to_text(film), InvalidImageError(received))
