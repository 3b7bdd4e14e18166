"""Cheap limits on the structure of an encoded image, which are checked before a decoder reads it.

They refuse a hostile file early and with a reason. ``cxr.decoding`` limits the files that pass.
"""

from __future__ import annotations

import re
import struct

from cxr.errors import InvalidImageError

MAX_SCANS = 100  # in a JPEG; each is a pass over all pixels
MAX_SEGMENTS = 1000  # before the first scan of a JPEG, or in a WebP; encoders need a few dozen
MAX_CHUNKS = 100_000  # in a PNG; encoders put 8 kB of data or more into each
MAX_METADATA_BYTES = 4 * 2**20  # color profiles take up to 2 MB, previews less
MAX_VALUES = 100_000  # in a tag of a TIFF, such as offsets of strips and tiles or a color map
MAX_TILE_RATIO = 4  # size of a tile of a TIFF to that of its image
SMALL_TILE_PIXELS = 2**20  # tiles up to this size may be larger than a small image

JPEG_START, JPEG_SCAN = b"\xff\xd8", b"\xff\xda"
# a scan's header with its length and its one to four components; libjpeg refuses any other
SCAN_HEADER = re.compile(JPEG_SCAN + rb"\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
PNG_START = b"\x89PNG\r\n\x1a\n"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0")
BIG_TIFF_STARTS = (b"II+\0", b"MM\0+")
BYTE_TYPES = (1, 2, 6, 7)  # of values in a TIFF
SHORT_TYPE = 3
WIDTH, HEIGHT, STRIPS, TILE_WIDTH, TILE_HEIGHT, TILES = 256, 257, 273, 322, 323, 324


def check_structure(data: bytes) -> None:
    """Raise ``InvalidImageError`` for a JPEG, PNG, TIFF or WebP that would exhaust its decoder."""
    if data.startswith(JPEG_START):
        _check_jpeg(data)
    elif data.startswith(PNG_START):
        _check_png(data)
    elif data.startswith(TIFF_STARTS + BIG_TIFF_STARTS):
        _check_tiff(data)
    elif is_webp(data):
        _check_webp(data)


def check_scans(data: bytes, parts: int = 0) -> None:
    """Raise ``InvalidImageError`` for a JPEG of too many scans: a small one could decode for hours.

    Args:
        data: a JPEG, or a TIFF that holds JPEGs.
        parts: strips or tiles of a TIFF, each of which has its own scans.
    """
    scans = sum(1 for _ in SCAN_HEADER.finditer(data))
    if scans > MAX_SCANS + parts:
        raise InvalidImageError(f"a JPEG of {scans} scans, where a progressive one has about ten")


def read_tiff_directory(data: bytes) -> tuple[dict[int, tuple[int, int, int]], int]:
    """Read the first directory of a TIFF or BigTIFF (TIFF 6.0, section 2), as far as it is complete.

    Returns:
        Type, number of values, and value (if it is one integer) of each tag; and the offset of the next
        directory, or 0 if there is none.
    """
    order = "<" if data[:1] == b"I" else ">"
    is_big = data[:4] in BIG_TIFF_STARTS
    start, head, offset, entry = (8, "Q", "Q", "HHQ") if is_big else (4, "H", "I", "HHI")
    entry_bytes, value_at = (20, 12) if is_big else (12, 8)
    tags = {}
    try:
        (at,) = struct.unpack_from(order + offset, data, start)
        (entries,) = struct.unpack_from(order + head, data, at)
        at += struct.calcsize(head)
        for _ in range(entries):
            tag, kind, count = struct.unpack_from(order + entry, data, at)
            integer = "H" if kind == SHORT_TYPE else offset
            (value,) = struct.unpack_from(order + integer, data, at + value_at)
            if tag in tags:  # a decoder would read each
                raise InvalidImageError(f"a TIFF that has the tag {tag} twice")
            tags[tag] = kind, count, value
            at += entry_bytes
        (following,) = struct.unpack_from(order + offset, data, at)
    except struct.error:
        return tags, 0
    return tags, following


def read_webp_sizes(data: bytes) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Read width and height, px, of the canvas and of the first picture of a WebP (RFC 9649, section 2).

    Returns:
        The two sizes, each of which is None if the file does not have it.

    Raises:
        InvalidImageError: if too much precedes the first picture.
    """
    canvas, at = None, 12
    for _ in range(MAX_SEGMENTS):
        if at + 24 > len(data):
            return canvas, None
        name, length = struct.unpack_from("<4sI", data, at)
        if name == b"VP8X":
            canvas = _read_sides(data, at + 12)
        elif name == b"ANMF":
            return canvas, _read_sides(data, at + 14)
        elif name == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, at + 14)
            return canvas, (width & 0x3FFF, height & 0x3FFF)
        elif name == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, at + 9)
            return canvas, ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        at += 8 + length + length % 2
    raise InvalidImageError("a WebP with far too much before its picture")


def is_webp(data: bytes) -> bool:
    """Whether a file begins like a WebP."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _check_jpeg(data: bytes) -> None:
    """Limit the segments before the first scan (T.81, B.1.1.4), which Pillow reads one by one."""
    check_scans(data)
    at, count = 2, 0
    while at + 4 <= len(data) and data[at] == JPEG_START[0] and data[at + 1] != JPEG_SCAN[1]:
        is_fill = data[at + 1] == JPEG_START[0]
        at += 1 if is_fill else 2 + struct.unpack_from(">H", data, at + 2)[0]
        count += 1
        if count > MAX_SEGMENTS or at > MAX_METADATA_BYTES:
            raise InvalidImageError("a JPEG with far too much before its picture")


def _check_png(data: bytes) -> None:
    at, beside, count = len(PNG_START), 0, 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"IEND":
            return
        at += 12 + length
        beside += length * (name != b"IDAT")
        count += 1
        if count > MAX_CHUNKS or beside > MAX_METADATA_BYTES:
            raise InvalidImageError("a PNG with far too much beside its picture")


def _check_tiff(data: bytes) -> None:
    tags, _ = read_tiff_directory(data)
    for tag, (kind, count, _) in tags.items():
        if count > (MAX_METADATA_BYTES if kind in BYTE_TYPES else MAX_VALUES):
            raise InvalidImageError(f"a TIFF whose tag {tag} has {count:,} values")
    if sum(count for _, count, _ in tags.values()) > 2 * MAX_METADATA_BYTES:
        raise InvalidImageError("a TIFF with far too much beside its picture")
    width, height, tile_width, tile_height = (
        tags.get(tag, (0, 0, 0))[2] for tag in (WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT)
    )
    if tile_width * tile_height > max(SMALL_TILE_PIXELS, MAX_TILE_RATIO * width * height):
        raise InvalidImageError(
            f"a TIFF whose tiles of {tile_width}x{tile_height} px are far larger than its picture"
        )


def _check_webp(data: bytes) -> None:
    """Refuse a canvas larger than its first picture: decoders allocate several canvases."""
    canvas, frame = read_webp_sizes(data)
    if frame and canvas and frame != canvas:
        raise InvalidImageError(
            "a WebP of {}x{} px whose first picture has {}x{}".format(*canvas, *frame)
        )


def _read_sides(data: bytes, at: int) -> tuple[int, int]:
    """Read two sides of 24 bits, which are stored minus one."""
    return tuple(int.from_bytes(data[i : i + 3], "little") + 1 for i in (at, at + 3))
