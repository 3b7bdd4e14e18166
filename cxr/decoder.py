"""A script that ``cxr.decoding`` runs: it reads files from standard input and writes their pixels.

All codecs run here and nowhere else. A hostile file can make a correct decoder take any amount of memory
or time, and a damaged file can crash it; so the operating system limits what this process may take.
"""

import json
import math
import os
import struct
import sys
from pathlib import Path
from typing import BinaryIO

MAX_CPU_S = 12  # processor time for one film
SMALL_PIXELS = 12_000_000  # larger films get the larger limit, one at a time
SMALL_BYTES = 400 * 2**20  # address space for a film, beyond what the libraries take
LARGE_BYTES = 900 * 2**20
LENGTH = struct.Struct(">Q")
GRANTED, LATER = b"granted", b"later"  # answers to a process that asks for room


def main() -> None:
    """Answer one request after another until standard input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some codecs print there
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import imagecodecs  # noqa: F401  here, so that a broken installation is noticed at the start
    import numpy as np  # what these imports print must not mix with the replies

    from cxr.errors import MAX_BYTES, InvalidImageError
    from cxr.imaging import decode_film
    from cxr.pixels import check_size

    limits = _Limits()

    def admit(width: int, height: int) -> None:
        check_size(width, height)
        if width * height > SMALL_PIXELS:
            send(replies, json.dumps({"asks": "room"}).encode())
            if receive(sys.stdin.buffer, MAX_BYTES) != GRANTED:
                raise _PutOff
            limits.allow(LARGE_BYTES)

    send(replies, json.dumps({"ready": True}).encode())
    while (data := receive(sys.stdin.buffer, MAX_BYTES)) is not None:
        limits.allow(SMALL_BYTES)
        try:
            film = decode_film(data, admit)
        except InvalidImageError as error:
            send(replies, json.dumps({"refused": error.received}).encode())
        except _PutOff:
            send(replies, json.dumps({"later": True}).encode())
        else:
            send(replies, json.dumps({"shape": film.pixels.shape, "notes": film.notes}).encode())
            send(replies, np.ascontiguousarray(film.pixels).data)
            del film
        del data


def receive(stream: BinaryIO, limit: int) -> bytes | None:
    """The next message; None if the other side has ended or announces more than ``limit`` bytes."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    if size > limit:
        return None
    data = stream.read(size)
    return data if len(data) == size else None


def receive_into(stream: BinaryIO, buffer: memoryview) -> bool:
    """Receive a message of exactly the buffer's size. Returns False if there is none."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size or LENGTH.unpack(head)[0] != buffer.nbytes:
        return False
    return stream.readinto(buffer) == buffer.nbytes


def send(stream: BinaryIO, message: bytes | memoryview) -> None:
    """Send a message: its length, then its bytes."""
    view = memoryview(message)
    stream.write(LENGTH.pack(view.nbytes))
    stream.write(view)
    stream.flush()


class _PutOff(BaseException):
    """A large film has to wait for another one."""


class _Limits:
    """Limits that the operating system enforces on this process, on systems that have such limits."""

    def __init__(self) -> None:
        try:
            import resource
        except ImportError:  # on Windows there is only the deadline of ``cxr.decoding``
            self._resource = None
            return
        self._resource = resource
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
        except OSError:  # macOS, which does not enforce this limit
            pages = 0
        self._libraries = pages * resource.getpagesize()
        for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):  # codecs write no files
            resource.setrlimit(limit, (0, 0))

    def allow(self, memory: int) -> None:
        """Allow so many bytes of memory, and ``MAX_CPU_S`` from now, for the film that begins."""
        if self._resource is None:
            return
        usage = self._resource.getrusage(self._resource.RUSAGE_SELF)
        self._set(self._resource.RLIMIT_CPU, math.ceil(usage.ru_utime + usage.ru_stime) + MAX_CPU_S)
        self._set(self._resource.RLIMIT_AS, self._libraries + memory)

    def _set(self, limit: int, value: int) -> None:
        _, hard = self._resource.getrlimit(limit)
        is_free = hard == self._resource.RLIM_INFINITY
        self._resource.setrlimit(limit, (value if is_free else min(value, hard), hard))


if __name__ == "__main__":
    main()
