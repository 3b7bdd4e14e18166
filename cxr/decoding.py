"""Decoding in a cage: supervised processes of bounded memory and time, one film at a time in each.

Two kept pools were looked at. loky has no deadline, and one dead process ends its whole pool. pebble has
both, but it starts processes through ``multiprocessing``, which runs the main module in each (under
Streamlit that is the page), and results come back as pickles, through which a codec that was taken over
could run code in the server. Here raw pixels and a little JSON come back over pipes, without fork,
semaphores or shared memory.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from cxr.decoder import receive, send
from cxr.errors import MAX_PIXELS, InvalidImageError

WORKERS = 2  # films decoded at once by default: the memory of a server bounds them
DEADLINE_S = 18.0  # of wall time, for one film
TICK_S = 0.25
MAX_ANSWER_BYTES = 2**16
PIPE_BYTES = 2**20  # the most that Linux gives to everybody
INHERITED = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT")  # of the environment: no secrets
SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",  # threads take address space
    "MALLOC_ARENA_MAX": "1",
    # the memory of common films is reused (fresh pages double the time), that of large ones goes back
    "MALLOC_MMAP_THRESHOLD_": str(16 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20),
}
TOO_MUCH = "a film that is damaged, or took more memory or time than a film may"


class DecoderPool:
    """Processes that decode. They start with the first film and are replaced when they end. Thread-safe.

    Args:
        workers: films decoded at once, 1 or more; of the large ones (``decoder.SMALL_PIXELS``), one.
    """

    def __init__(self, workers: int = WORKERS) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(workers, "decoding")
        self._room = threading.Semaphore()  # for one large film
        self._tickets = itertools.count()
        self._lock = threading.Lock()  # for what follows
        self._idle: list[_Worker] = []
        self._waiting: set[int] = set()
        self._running: dict[int, _Worker] = {}

    def start(self) -> None:
        """Start a process now, so that the first film does not wait for it."""
        with self._lock:
            if not self._idle and not self._running:
                self._idle.append(_Worker())

    def decode(
        self, data: bytes, on_wait: Callable[[int], None] | None = None
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Decode a file as ``cxr.imaging.decode_film`` does.

        Args:
            data: the file.
            on_wait: called in this thread about four times a second with the number of films that wait
                before this one. An exception that it raises ends the decoding, and is raised here.

        Returns:
            Pixels, uint8 (H, W); and notes.

        Raises:
            InvalidImageError: if the file cannot be read within the bounds.
        """
        ticket = next(self._tickets)
        with self._lock:
            self._waiting.add(ticket)
        future = self._threads.submit(self._run, ticket, data)
        try:
            while on_wait and concurrent.futures.wait([future], TICK_S).not_done:
                with self._lock:
                    ahead = sum(other < ticket for other in self._waiting)
                on_wait(ahead)
            return future.result()
        except BaseException:
            self._cancel(ticket)
            raise

    def close(self) -> None:
        """End the processes when their films are done."""
        self._threads.shutdown()
        for worker in self._idle:
            worker.close()

    def _cancel(self, ticket: int) -> None:
        with self._lock:
            self._waiting.discard(ticket)
            if ticket in self._running:
                self._running[ticket].kill()

    def _run(self, ticket: int, data: bytes) -> tuple[np.ndarray, tuple[str, ...]] | None:
        with self._lock:
            if ticket not in self._waiting:  # nobody waits for it any more
                return None
            self._waiting.remove(ticket)
            worker = self._running[ticket] = self._take()
        try:
            return self._decode(worker, data)
        except _WorkerEndedError:
            worker.kill()
            raise InvalidImageError(TOO_MUCH) from None
        finally:
            with self._lock:
                del self._running[ticket]
                if worker.is_alive():
                    self._idle.append(worker)
                else:
                    worker.close()

    def _take(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive():
                return worker
            worker.close()
        return _Worker()

    def _decode(self, worker: _Worker, data: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
        start = time.monotonic()
        with _kill_after(worker, DEADLINE_S):
            answer = worker.ask(data)
        if answer is None:
            left_s = DEADLINE_S - (time.monotonic() - start)
            with self._room, _kill_after(worker, left_s):
                answer = worker.ask(b"")
        if answer is None:
            raise _WorkerEndedError
        return answer


class _WorkerEndedError(Exception):
    """The process has ended in the middle of a film, or answered nonsense."""


class _Worker:
    """A process of ``decoder.py``."""

    def __init__(self) -> None:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", Path(__file__).with_name("decoder.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what a codec prints may quote a header
            env=inherited | SETTINGS,
            start_new_session=True,  # Ctrl-C is for the one who started us
        )
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl

            for stream in (self._process.stdin, self._process.stdout):
                fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def ask(self, data: bytes) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """Send a file, or nothing where the process has asked for room. Returns what it has read, or
        None if it asks for room."""
        try:
            send(self._process.stdin, data)
            answer = json.loads(receive(self._process.stdout, MAX_ANSWER_BYTES) or b"")
            if "asks" in answer:
                return None
            if "refused" not in answer:
                pixels = np.frombuffer(receive(self._process.stdout, MAX_PIXELS), np.uint8)
                return pixels.reshape(answer["shape"]), tuple(answer["notes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _WorkerEndedError from error
        raise InvalidImageError(answer["refused"])

    def is_alive(self) -> bool:
        """Whether it can take another film."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it, and close the pipes; no other thread may be reading them."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was not written is lost
                stream.close()


@contextlib.contextmanager
def _kill_after(worker: _Worker, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, worker.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # it may be killing at this moment


_shared: DecoderPool | None = None
_share_lock = threading.Lock()


def shared_pool() -> DecoderPool:
    """The pool of this process."""
    with _share_lock:
        return _shared or _share(DecoderPool())


def share_pool(workers: int) -> DecoderPool:
    """Let this process decode ``workers`` films at once, 1 or more. Returns its new pool."""
    with _share_lock:
        if _shared:
            _shared.close()
        return _share(DecoderPool(workers))


def _share(pool: DecoderPool | None) -> DecoderPool | None:
    global _shared  # noqa: PLW0603 - one limit for all that runs in this process
    _shared = pool
    return pool


@atexit.register
def _close_shared() -> None:
    if _shared:
        _shared.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _share(None))  # its threads are not in a child
