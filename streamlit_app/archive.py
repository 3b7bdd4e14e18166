"""Read ZIP archives of films in memory, within limits, because a small archive can hold anything."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence

from cxr import InvalidImageError
from cxr.errors import MAX_BYTES
from streamlit_app.film import Source, name_safely

MAX_DIRECTORY_BYTES = 2**18  # about two thousand members; zipfile makes an object of each
SIGNATURES = (b"PK\3\4", b"PK\5\6")  # of a member, and of an empty archive
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile would inflate the others in one piece
DAMAGES = (
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
)


class _BoundedFile(io.BytesIO):
    """Refuses large reads while the directory is parsed, which zipfile reads in one piece."""

    is_bounded = True

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.size = len(data)  # a look at the buffer would copy it

    def read(self, size: int | None = -1, /) -> bytes:
        left = self.size - self.tell()
        wanted = left if size is None or size < 0 else min(size, left)
        if self.is_bounded and wanted > MAX_DIRECTORY_BYTES:
            raise InvalidImageError("a ZIP archive of far too many members")
        return super().read(size)


def is_archive(data: bytes) -> bool:
    """Whether a file begins like a ZIP archive. The end does not count, as an image may end like one."""
    return data.startswith(SIGNATURES)


def unpack(sources: Sequence[Source]) -> Iterator[Source]:
    """List the files, with each archive replaced by its members. Nothing is written to a disk.

    A file that cannot be unpacked raises ``InvalidImageError`` only when it is read.
    """
    for source in sources:
        data = source.read()
        if not is_archive(data):
            yield source
            continue
        try:
            archive = _open(data)
        except InvalidImageError as error:
            yield Source(source.name, source.key, _raiser(error))
            continue
        for i, member in enumerate(archive.infolist()):
            if not member.filename.endswith("/") and not _is_hidden(member.filename):
                name = name_safely(member.filename.removeprefix("./"))
                yield Source(name, f"{source.key}/{i}", _member_reader(archive, member))


def _is_hidden(name: str) -> bool:
    """Whether file managers hide the member, or macOS added it."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return any(part.startswith(".") for part in parts) or parts[:1] == ["__MACOSX"]


def _open(data: bytes) -> zipfile.ZipFile:
    file = _BoundedFile(data)
    try:
        archive = zipfile.ZipFile(file)
    except InvalidImageError:
        raise
    except Exception as error:  # struct.error among others
        raise InvalidImageError("a damaged ZIP archive") from error
    file.is_bounded = False
    return archive


def _raiser(error: InvalidImageError) -> Callable[[], bytes]:
    def read() -> bytes:
        raise error

    return read


def _member_reader(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        if member.compress_type not in METHODS:
            raise InvalidImageError("a member of a ZIP archive that is neither stored nor deflated")
        try:
            with archive.open(member) as file:
                return file.read(MAX_BYTES + 1)  # the size in the header may be wrong
        except DAMAGES as error:
            raise InvalidImageError("a member of a ZIP archive that is damaged or encrypted") from error

    return read
