"""Compressed frames of DICOM films: read their headers, limit their structure, decode them."""

from __future__ import annotations

import itertools
import math
import struct

import imagecodecs
import numpy as np
from pydicom.encaps import generate_fragments

from cxr.errors import InvalidImageError
from cxr.structure import check_scans

CODINGS = {  # by transfer syntax
    "1.2.840.10008.1.2.5": "rle",
    "1.2.840.10008.1.2.4.50": "jpeg",  # baseline
    "1.2.840.10008.1.2.4.51": "jpeg",  # extended, 8 or 12 bits
    "1.2.840.10008.1.2.4.57": "jpeg",  # lossless
    "1.2.840.10008.1.2.4.70": "jpeg",  # lossless, first order
    "1.2.840.10008.1.2.4.80": "jpeg-ls",  # lossless
    "1.2.840.10008.1.2.4.81": "jpeg-ls",  # near lossless
    "1.2.840.10008.1.2.4.90": "jpeg2000",  # lossless
    "1.2.840.10008.1.2.4.91": "jpeg2000",
    "1.2.840.10008.1.2.4.201": "jpeg2000",  # high throughput, lossless
    "1.2.840.10008.1.2.4.202": "jpeg2000",  # high throughput, lossless, by resolution
    "1.2.840.10008.1.2.4.203": "jpeg2000",  # high throughput
}
MAX_FRAGMENTS = 20_000
MAX_SEGMENTS = 2000  # in a JPEG before its first scan; a color profile takes at most 255
JPEG_START, JPEG_SCAN, JPEG_TABLES = 0xD8, 0xDA, {0xC4, 0xC8, 0xCC}
JPEG_FRAMES = {*range(0xC0, 0xD0), 0xF7} - JPEG_TABLES  # SOF markers; the last is of JPEG-LS
LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF, 0xF7}
JPEG2000_START = b"\xff\x4f\xff\x51"  # SOC, SIZ
COD, COC, SOT, SOD, END = 0x52, 0x53, 0x90, 0x93, 0xD9
# Limits on JPEG 2000. A file that reaches all of them takes half a second and 400 MB to decode, no more
# than a regular film of 50 megapixels.
MAX_TILES = 4096  # 50 megapixels in tiles of 128 px are 3,052
MAX_BLOCKS = 400_000  # 50 megapixels in code-blocks of 16 px are 200,000; encoders use 32 or 64 px
MAX_PACKETS = 1_000_000  # 50 megapixels in tiles of 256 px, 6 resolutions and 20 layers are 92,000
MAX_MARKERS = 200_000  # a tile-part has a few


def join_fragments(value: bytes) -> bytes:
    """Join the one frame in the value of an encapsulated PixelData, and ignore its offset table."""
    fragments = list(itertools.islice(generate_fragments(value), 1, MAX_FRAGMENTS + 2))
    if len(fragments) > MAX_FRAGMENTS:
        raise InvalidImageError(f"a DICOM film in more than {MAX_FRAGMENTS:,} fragments")
    return b"".join(fragments)


def decode_frame(
    frame: bytes, coding: str, shape: tuple[int, int, int], dtype: np.dtype
) -> tuple[np.ndarray, int]:
    """Decode a frame if its structure is within the limits and its size is that of the header.

    Args:
        frame: the codestream.
        coding: a value of ``CODINGS``.
        shape: rows, columns and samples per pixel, as the header of the file says.
        dtype: type of a sample by the header of the file; only RLE depends on it.

    Returns:
        Pixels, uint8 or uint16 (H, W) or (H, W, 3), where signed samples are given by their bits and
        lossy JPEG in color is reduced to luma; and bits per sample.

    Raises:
        InvalidImageError: if the frame contradicts the header or has too many parts.
    """
    if coding == "rle":
        return _decode_rle(frame, shape, dtype), 8 * dtype.itemsize
    if coding == "jpeg2000":
        found, precision = _read_jpeg2000(frame)
    else:
        found, precision, is_lossless = _read_jpeg(frame)
        check_scans(frame)
    if found != shape:
        raise InvalidImageError(
            f"a DICOM film whose compressed image is {_tell(found)}, while its header says {_tell(shape)}"
        )
    if coding == "jpeg2000":
        _check_jpeg2000(frame, shape[2])
        pixels = imagecodecs.jpeg2k_decode(frame, numthreads=1)
    elif coding == "jpeg-ls":
        pixels = imagecodecs.jpegls_decode(frame)
    elif shape[2] == 1 or is_lossless:
        pixels = imagecodecs.jpeg8_decode(frame)
    else:
        pixels = imagecodecs.jpeg8_decode(frame, outcolorspace="GRAYSCALE")
    if pixels.dtype.itemsize > 2 or pixels.shape not in (shape, shape[:2]):
        raise InvalidImageError(
            f"a DICOM film that decodes to {pixels.dtype} of shape {pixels.shape}, while its header says "
            f"{_tell(shape)}"
        )
    words = pixels.view(f"u{pixels.dtype.itemsize}")
    if pixels.dtype.kind == "i":  # only from JPEG 2000; the header may say unsigned
        words &= (1 << precision) - 1
    return words, precision


def _tell(shape: tuple[int, int, int]) -> str:
    rows, columns, samples = shape
    return f"{columns} x {rows} px of {samples} sample{'s' if samples != 1 else ''}"


def _decode_rle(frame: bytes, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    """Decode a plane for each byte of each sample (DICOM PS3.5, annex G), none longer than the film."""
    rows, columns, samples = shape
    (planes,) = struct.unpack("<I", frame[:4])
    if planes != samples * dtype.itemsize:
        raise InvalidImageError(
            f"a DICOM film with {planes} planes of RLE, while its header needs {samples * dtype.itemsize}"
        )
    size = math.prod(shape) * dtype.itemsize
    pixels = np.frombuffer(imagecodecs.dicomrle_decode(frame, dtype, out=size), dtype)
    if samples == 1:
        return pixels.reshape(rows, columns)
    return np.moveaxis(pixels.reshape(samples, rows, columns), 0, -1)


def _read_jpeg(frame: bytes) -> tuple[tuple[int, int, int], int, bool]:
    """Read rows, columns and components, bits, and whether it is lossless (T.81, B.2.2)."""
    at = 2
    if frame[:2] != bytes((0xFF, JPEG_START)):
        raise InvalidImageError(
            "a DICOM film whose compressed image is not the JPEG that its header names"
        )
    for _ in range(MAX_SEGMENTS):
        if at + 10 > len(frame) or frame[at] != 0xFF or frame[at + 1] == JPEG_SCAN:
            break
        marker = frame[at + 1]
        if marker in JPEG_FRAMES:
            precision, rows, columns, components = struct.unpack(">BHHB", frame[at + 4 : at + 10])
            return (rows, columns, components), precision, marker in LOSSLESS
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4])
    raise InvalidImageError("a DICOM film whose compressed image is damaged")


def _read_jpeg2000(frame: bytes) -> tuple[tuple[int, int, int], int]:
    """Read rows, columns and components, and bits from the SIZ segment (T.800, A.5.1)."""
    if not frame.startswith(JPEG2000_START):
        raise InvalidImageError(
            "a DICOM film whose compressed image is not the JPEG 2000 that its header names"
        )
    right, bottom, left, top = struct.unpack(">4I", frame[8:24])
    (components,) = struct.unpack(">H", frame[40:42])
    return (bottom - top, right - left, components), (frame[42] & 0x7F) + 1


def _check_jpeg2000(frame: bytes, components: int) -> None:
    """Refuse a codestream of more parts than a regular film has (T.800, annexes A and B)."""
    samples = {frame[42 + 3 * i : 45 + 3 * i] for i in range(components)}
    if len(samples) != 1 or next(iter(samples))[1:] != b"\x01\x01":
        raise InvalidImageError("a DICOM film in JPEG 2000 whose samples differ in size")
    right, bottom, left, top, wide, high, tile_left, tile_top = struct.unpack(">8I", frame[8:40])
    tiles = math.ceil((right - tile_left) / wide) * math.ceil((bottom - tile_top) / high)
    if tiles > MAX_TILES:
        raise InvalidImageError(f"a DICOM film in JPEG 2000 of {tiles:,} tiles")
    layers, styles = _read_styles(frame, components)
    counts = [_count_parts(style, min(wide, right - left), min(high, bottom - top)) for style in styles]
    blocks = tiles * components * max(count[0] for count in counts)
    packets = tiles * components * max(count[1] for count in counts) * layers
    if blocks > MAX_BLOCKS or packets > MAX_PACKETS:
        raise InvalidImageError(
            f"a DICOM film in JPEG 2000 of {blocks:,} code-blocks and {packets:,} packets"
        )


def _read_styles(frame: bytes, components: int) -> tuple[int, set[bytes]]:
    """Read the most layers and all coding styles (SPcod, SPcoc) of the image and its tile-parts."""
    at, part = 2, 0
    layers, styles = 1, set()
    for _ in range(MAX_MARKERS):
        if at + 4 > len(frame) or frame[at] != 0xFF or frame[at + 1] == END:
            break
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4])
        body = frame[at + 4 : at + 2 + length]
        if marker == SOT:
            part = at
        elif marker == COD:
            layers = max(layers, int.from_bytes(body[2:4]))
            styles.add(_spell_out(body[0], body[5:]))
        elif marker == COC:
            index = 1 if components < 257 else 2
            styles.add(_spell_out(body[index], body[index + 1 :]))
        at += 2 + length
        if marker == SOD:  # it has no length; that of the tile-part is in its SOT
            size = int.from_bytes(frame[part + 6 : part + 10])
            at = part + size if size else len(frame)
            if at <= part:
                break
    else:
        raise InvalidImageError(f"a DICOM film in JPEG 2000 of more than {MAX_MARKERS:,} marker segments")
    if not styles:
        raise InvalidImageError("a DICOM film whose compressed image is damaged")
    return layers, styles


def _spell_out(flags: int, style: bytes) -> bytes:
    """Levels and exponents of code-blocks, then the exponents of precincts, which are 15 by default."""
    levels = style[0]
    return style[:3] + (style[5 : 6 + levels] if flags & 1 else b"\xff" * (levels + 1))


def _count_parts(style: bytes, width: int, height: int) -> tuple[int, int]:
    """Count code-blocks and precincts in a component of a tile of this size, px."""
    levels, precincts = style[0], style[3:]
    blocks = packets = 0
    if levels > 32 or len(precincts) != levels + 1:
        raise InvalidImageError("a DICOM film whose compressed image is damaged")
    for resolution, exponents in enumerate(precincts):
        wide, high = (math.ceil(side / 2 ** (levels - resolution)) for side in (width, height))
        across, down = exponents & 15, exponents >> 4
        packets += math.ceil(wide / 2**across) * math.ceil(high / 2**down)
        half = resolution > 0  # precincts divide a resolution, code-blocks divide its subbands
        columns = wide / 2 ** min(style[1] + 2 + half, across)
        rows = high / 2 ** min(style[2] + 2 + half, down)
        blocks += math.ceil(columns) * math.ceil(rows) * (3 if half else 1)
    return max(blocks, packets), packets
