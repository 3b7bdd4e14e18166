"""Decode films in supervised processes of bounded memory and time, one film at a time in each process.

Two well-kept libraries were considered. loky has no deadline, and one dead process ends its whole pool.
pebble has deadlines and replaces dead processes, but it starts them through ``multiprocessing``, which
runs the main module in each (under Streamlit this is the page), and it returns results as pickles,
through which a compromised codec could run code in the server. Here raw pixels and a little JSON come
back over pipes, without fork, semaphores or shared memory.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cxr.decoder import GRANTED, LATER, receive, receive_into, send
from cxr.errors import MAX_PIXELS, InvalidImageError

WORKERS = 2  # films decoded at once by default; the memory of a server limits them
DEADLINE_S = 18.0  # wall time for one film
TICK_S = 0.25
MAX_ANSWER_BYTES = 2**16
PIPE_BYTES = 2**20  # the most that Linux gives to unprivileged users
INHERITED = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT")  # variables that hold no secrets
SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",  # threads take address space
    "MALLOC_ARENA_MAX": "1",
    # memory of common films is reused (fresh pages double the time), memory of large films is returned
    "MALLOC_MMAP_THRESHOLD_": str(16 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20),
}
TOO_MUCH = "a film that is damaged, or took more memory or time than a film may"
NOT_STARTED = "a film that cannot be decoded, because the decoder does not start on this machine"
NO_PROCESS = "a film that cannot be decoded now, because this machine cannot start another process"


class DecoderPool:
    """Processes that decode. They start with the first film and are replaced when they end. Thread-safe.

    Args:
        workers: films decoded at once, 1 or more. Only one of them may be large (above
            ``decoder.SMALL_PIXELS``).
    """

    def __init__(self, workers: int = WORKERS) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(workers, "decoding")
        self._large_film = threading.Lock()  # held by the one large film that is decoded
        self._lock = threading.Lock()  # protects the attributes below
        self._tickets = itertools.count()
        self._idle: list[_Worker] = []
        self._waiting: set[int] = set()
        self._waiting_large: set[int] = set()
        self._running: dict[int, _Worker] = {}

    def start(self) -> None:
        """Start a process now, so that the first film does not wait for it."""
        with self._lock, contextlib.suppress(OSError):  # the first film tries again
            if not self._idle and not self._running:
                self._idle.append(_Worker())

    def decode(
        self, data: bytes | Callable[[], bytes], on_wait: Callable[[int], None] | None = None
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Decode a file as ``cxr.imaging.decode_film`` does.

        Args:
            data: the file, or a function that reads it. The function is called when the file's turn has
                come, in another thread, so that those who wait hold no file in memory; it is called again
                if the film is large and another large one is being decoded.
            on_wait: called in this thread about four times a second with the number of films that wait or
                are decoded before this one, 0 once it is decoded itself. If it raises, decoding ends, and
                the exception is raised here.

        Returns:
            Pixels, uint8 (H, W); and notes.

        Raises:
            InvalidImageError: if the file cannot be read within the bounds.
        """
        ticket = next(self._tickets)
        try:
            result = self._run_in_turn(ticket, data, on_wait, has_room=False)
            if result is None:  # another large film is being decoded; small ones may pass this one
                with self._wait_for_room(ticket, on_wait):
                    result = self._run_in_turn(ticket, data, on_wait, has_room=True)
            return result
        except BaseException:
            self._cancel(ticket)
            raise

    def _run_in_turn(
        self,
        ticket: int,
        data: bytes | Callable[[], bytes],
        on_wait: Callable[[int], None] | None,
        has_room: bool,
    ) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """Wait for a thread of the pool, and for what it returns."""
        with self._lock:
            future = self._threads.submit(self._run, ticket, data, has_room)
            self._waiting.add(ticket)
        while on_wait and concurrent.futures.wait([future], TICK_S).not_done:
            with self._lock:
                ahead = sum(other < ticket for other in self._waiting)
                ahead += len(self._running) if ticket in self._waiting else 0
            on_wait(ahead)
        return future.result()

    @contextlib.contextmanager
    def _wait_for_room(self, ticket: int, on_wait: Callable[[int], None] | None) -> Iterator[None]:
        """Hold the lock of large films, which no thread of the pool waits for."""
        with self._lock:
            self._waiting_large.add(ticket)
        try:
            while not self._large_film.acquire(timeout=TICK_S):
                if on_wait:
                    with self._lock:
                        ahead = sum(other < ticket for other in self._waiting_large)
                    on_wait(ahead + 1)
        finally:
            with self._lock:
                self._waiting_large.discard(ticket)
        try:
            yield
        finally:
            self._large_film.release()

    def close(self) -> None:
        """Finish the films that were given, and end the processes. The pool takes no film after this."""
        self._threads.shutdown()
        for worker in self._idle:
            worker.close()
        self._idle.clear()

    def _cancel(self, ticket: int) -> None:
        with self._lock:
            self._waiting.discard(ticket)
            if ticket in self._running:
                self._running[ticket].kill()

    def _run(
        self, ticket: int, data: bytes | Callable[[], bytes], has_room: bool
    ) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """Decode in this thread of the pool. None if the film is large and has to wait for another."""
        with self._lock:
            if ticket not in self._waiting:  # cancelled
                return None
            self._waiting.remove(ticket)
            worker = self._running[ticket] = self._take_worker()
        try:
            return self._decode(worker, data() if callable(data) else data, has_room)
        except InvalidImageError:  # an answer like any other
            raise
        except BaseException as error:
            worker.kill()  # what is left in its pipes must not be taken for the answer to the next film
            if isinstance(error, _WorkerEndedError):
                raise InvalidImageError(TOO_MUCH) from None
            raise
        finally:
            with self._lock:
                del self._running[ticket]
                if worker.is_alive():
                    self._idle.append(worker)
                else:
                    worker.close()

    def _take_worker(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive():
                return worker
            worker.close()
        try:
            return _Worker()
        except OSError as error:
            raise InvalidImageError(NO_PROCESS, is_temporary=True) from error

    def _decode(
        self, worker: _Worker, data: bytes, has_room: bool
    ) -> tuple[np.ndarray, tuple[str, ...]] | None:
        with _kill_after(worker, DEADLINE_S):
            answer = worker.ask(data)
            if answer is not None:
                return answer
            if has_room:
                answer = worker.ask(GRANTED)
            elif self._large_film.acquire(blocking=False):
                try:
                    answer = worker.ask(GRANTED)
                finally:
                    self._large_film.release()
            else:
                return worker.ask(LATER)
        if answer is None:
            raise _WorkerEndedError
        return answer


class _WorkerEndedError(Exception):
    """The process has ended while it decoded a film, or its answer cannot be understood."""


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
            start_new_session=True,  # Ctrl-C ends the parent, which ends this process
        )
        self._is_ready = False
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl

            for stream in (self._process.stdin, self._process.stdout):
                fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def ask(self, data: bytes) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """Send a file or, if the process has asked for room for a large film, ``GRANTED`` or ``LATER``.

        Returns:
            Pixels, uint8 (H, W), and notes; or None if the process asks for room, or has put off a film.

        Raises:
            InvalidImageError: if the process refuses the file. It can take the next one.
            _WorkerEndedError: if the process has ended, or its answer cannot be understood.
        """
        if not self._is_ready:
            self._await_start()
        try:
            send(self._process.stdin, data)
            answer = self._receive_answer()
            if "asks" in answer or "later" in answer:
                return None
            if "refused" not in answer:
                height, width = answer["shape"]
                return self._receive_pixels(height, width), tuple(map(str, answer["notes"]))
        except Exception as error:  # of pipes, of memory, and of what a compromised codec may send
            raise _WorkerEndedError from error
        raise InvalidImageError(str(answer["refused"]))

    def _await_start(self) -> None:
        """Wait until the process has imported what it needs; it ends at once in a broken installation."""
        try:
            self._is_ready = "ready" in self._receive_answer()
        except Exception as error:
            raise InvalidImageError(NOT_STARTED, is_temporary=True) from error

    def _receive_answer(self) -> dict[str, Any]:
        return json.loads(receive(self._process.stdout, MAX_ANSWER_BYTES) or b"")

    def _receive_pixels(self, height: int, width: int) -> np.ndarray:
        """Pixels straight into an array, uint8 (H, W), of their own."""
        if not 0 < height * width <= MAX_PIXELS:
            raise ValueError(f"received an image of {height * width} pixels")
        pixels = np.empty((height, width), np.uint8)
        if not receive_into(self._process.stdout, pixels.data.cast("B")):
            raise EOFError
        return pixels

    def is_alive(self) -> bool:
        """Whether it can take another film."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process and close its pipes, which no other thread may be using."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # closing would write what is still buffered
                stream.close()


@contextlib.contextmanager
def _kill_after(worker: _Worker, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, worker.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # it may just be killing the process


_shared: DecoderPool | None = None
_share_lock = threading.Lock()


def shared_pool() -> DecoderPool:
    """The pool that all of this process shares, because memory limits the films decoded at once."""
    global _shared  # noqa: PLW0603
    with _share_lock:
        if _shared is None:
            _shared = DecoderPool()
        return _shared


def share_pool(workers: int) -> DecoderPool:
    """Replace the shared pool by one that decodes ``workers`` films at once, 1 or more. Returns it."""
    global _shared  # noqa: PLW0603
    with _share_lock:
        if _shared:
            _shared.close()
        _shared = DecoderPool(workers)
        return _shared


@atexit.register
def _close_shared() -> None:
    if _shared:
        _shared.close()


def _forget_shared() -> None:
    """For a forked child: it has neither the pool's threads nor the thread that may hold the lock."""
    global _shared, _share_lock
    _shared, _share_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_shared)
