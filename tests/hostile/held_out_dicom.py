"""Classes of DICOM files that no limit was made for, by name."""

from __future__ import annotations

import struct

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.conftest import make_dicom, save_dicom
from tests.hostile.build import (
    FILM,
    MAX_FILE,
    SIDE_50MP,
    Case,
    codestream,
    dicom_of,
    dicom_of_pixels,
    jpeg_of_scans,
    jpeg_of_zeros,
    jpeg_segment,
    picture,
    zeros,
)

FULL = MAX_FILE - 2**16
EMPTY_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
DEEP = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
RUN_LENGTHS = [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4, 4, 5, 5, 6, 6, 7, 7, *range(8, 16)]  # JPEG-LS
COLOR = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}


def before_pixels(elements: bytes) -> bytes:
    """The small film, with more elements (explicit, little endian) before its pixel data."""
    film = save_dicom(make_dicom(FILM))
    at = film.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OB"))
    return film[:at] + elements + film[at:]


def dicom_nested(depth: int) -> bytes:
    """Sequences of undefined length in sequences, in a tag that is read."""
    sequence = struct.pack("<HH2sHI", 0x0028, 0x3010, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return before_pixels((sequence + item) * depth + ends * depth)


def dicom_items(count: int) -> bytes:
    """A sequence of lookup tables with so many empty items."""
    items = EMPTY_ITEM * count
    return before_pixels(struct.pack("<HH2sHI", 0x0028, 0x3010, b"SQ", 0, len(items)) + items)


def dicom_private_value(length: int) -> bytes:
    """A private element of so many bytes."""
    return before_pixels(struct.pack("<HH2sHI", 0x0029, 0x1001, b"OB", 0, length) + bytes(length))


def dicom_private_elements(count: int) -> bytes:
    return before_pixels(struct.pack("<HH2sH", 0x0029, 0x1001, b"LO", 0) * count)


def dicom_fragments(count: int) -> bytes:
    """A JPEG in so many fragments, nearly all of them empty."""
    frame = picture("JPEG")
    frame += b"\0" * (len(frame) % 2)
    last = struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
    return dicom_of([EMPTY_ITEM * count, last], JPEGBaseline8Bit, 160, 160)


def dicom_deflated(length: int) -> bytes:
    """A deflated data set that holds a private element of so many bytes."""
    dataset = make_dicom(FILM)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    film = save_dicom(dataset)
    head = film.index(DeflatedExplicitVRLittleEndian.encode())
    at = head + len(DeflatedExplicitVRLittleEndian) + len(DeflatedExplicitVRLittleEndian) % 2
    start = film.index(b"\x02\x00\x12\x00", at)  # ImplementationClassUID, the last of the file's header
    (length_of_last,) = struct.unpack("<H", film[start + 6 : start + 8])
    element = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, length)
    return film[: start + 8 + length_of_last] + _stored(element) + zeros(length, wbits=-15)


def _stored(content: bytes) -> bytes:
    """A deflate block that is not the last and not compressed."""
    return struct.pack("<BHH", 0, len(content), 0xFFFF ^ len(content)) + content


def dicom_jpegls(side: int) -> bytes:
    """JPEG-LS of one color, whose runs take a few bits a row (T.87, A.7.1)."""
    bits = index = 0
    for _ in range(side):
        left = side
        while left > 0:
            whole = left >= 1 << RUN_LENGTHS[index]
            left -= 1 << RUN_LENGTHS[index]
            index = min(index + whole, 31)
            bits += 1
    pairs, rest = divmod(bits, 15)  # a byte of ones is followed by seven bits
    data = b"\xff\x7f" * pairs
    last = 0xFF00 >> min(rest, 8) & 0xFF, 0x7F & ~(0x7F >> max(rest - 8, 0))
    data += bytes(last[: (rest > 0) + (rest >= 8)])
    frame = jpeg_segment(0xF7, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    frame = b"\xff\xd8" + frame + jpeg_segment(0xDA, b"\1\1\0\0\0\0") + data + b"\xff\xd9"
    return dicom_of(frame, JPEGLSLossless, side, side)


def dicom_jpeg_lossless(side: int) -> bytes:
    """Lossless JPEG, a bit a pixel."""
    scan = jpeg_segment(0xDA, b"\1\1\0\1\0\0") + b"\0" * (side * side // 8)
    return dicom_of(jpeg_of_zeros(side, side, 0xC3, scan), JPEGLosslessSV1, side, side)


def dicom_jpeg_lossless_restarts(side: int) -> bytes:
    """Lossless JPEG whose restart interval is a single pixel."""
    scan = jpeg_segment(0xDA, b"\1\1\0\1\0\0") + b"\x7f\xff\xd0" * 1000
    return dicom_of(jpeg_of_zeros(side, side, 0xC3, scan, restart=1), JPEGLossless, side, side)


def dicom_jpeg_scans(side: int) -> bytes:
    """Progressive JPEG in the syntax of baseline JPEG."""
    return dicom_of(jpeg_of_scans(side), JPEGBaseline8Bit, side, side)


def jpeg2000_blocks(side: int) -> bytes:
    """Code blocks of 4 px, the smallest."""
    return dicom_of(codestream(side, side, block=2), JPEG2000Lossless, side, side)


def jpeg2000_levels(side: int) -> bytes:
    """As many levels of decomposition as there can be, and layers."""
    frame = codestream(side, side, levels=32, layers=65_535)
    return dicom_of(frame, JPEG2000Lossless, side, side)


def jpeg2000_components(components: int) -> bytes:
    """So many components, where the header has one."""
    return dicom_of(codestream(160, 160, components=components), JPEG2000Lossless, 160, 160)


def jpeg2000_color(side: int) -> bytes:
    return dicom_of(codestream(side, side, components=3), JPEG2000Lossless, side, side, **COLOR)


def jpeg2000_single_tile_far(offset: int) -> bytes:
    """A small picture far out on the reference grid, in one tile that reaches there."""
    return dicom_of(codestream(160, 160, offset=offset), JPEG2000Lossless, 160, 160)


def jpeg2000_small_tiles(across: int) -> bytes:
    """Tiles of 2 px, with no data."""
    side = 2 * across
    frame = codestream(side, side, tile=(2, 2), levels=1)
    return dicom_of(frame, JPEG2000Lossless, side, side)


def jpeg2000_deep(bits: int) -> bytes:
    """Samples of more bits than the header has."""
    return dicom_of(codestream(160, 160, bits=bits), JPEG2000Lossless, 160, 160)


def rle_literals(side: int) -> bytes:
    """RLE of 16 bits in literal runs of a single byte, the most there can be."""
    segment = b"\0\x40" * (side * side)
    header = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13)
    return dicom_of(header + 2 * segment, RLELossless, side, side, **DEEP)


def rle_of_one_color(side: int) -> bytes:
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    frame = header + b"\x81\x40" * (side * side // 128 + 1)
    return dicom_of(frame, RLELossless, side, side)


def dicom_window(side: int) -> bytes:
    """Half a byte a pixel less than the limit of the file: a rescale and a window over many pixels."""
    tags = {"WindowCenter": 128, "WindowWidth": 100, "RescaleSlope": "0.5", "RescaleIntercept": "-7"}
    return dicom_of_pixels(side * side, side, side, **tags)


HELD_OUT_DICOM = {
    "dicom_nested": Case(dicom_nested, 100, 10_000, FULL // 40),
    "dicom_items": Case(dicom_items, 1000, 10**6, FULL // 8),
    "dicom_private_value": Case(dicom_private_value, 1000, 2**25, FULL),
    "dicom_private_elements": Case(dicom_private_elements, 1000, 10**6, FULL // 8),
    "dicom_fragments": Case(dicom_fragments, 1000, 10**6, FULL // 8),
    "dicom_deflated": Case(dicom_deflated, 10**5, 2**30, 2**32 - 16),
    "dicom_jpegls": Case(dicom_jpegls, 160, SIDE_50MP, SIDE_50MP),
    "dicom_jpeg_lossless": Case(dicom_jpeg_lossless, 160, SIDE_50MP, SIDE_50MP),
    "dicom_jpeg_lossless_restarts": Case(dicom_jpeg_lossless_restarts, 160, SIDE_50MP, SIDE_50MP),
    "dicom_jpeg_scans": Case(dicom_jpeg_scans, 160, 2000, SIDE_50MP),
    "jpeg2000_blocks": Case(jpeg2000_blocks, 160, 3000, SIDE_50MP),
    "jpeg2000_levels": Case(jpeg2000_levels, 160, 2000, SIDE_50MP),
    "jpeg2000_components": Case(jpeg2000_components, 5, 1000, 16_384),
    "jpeg2000_color": Case(jpeg2000_color, 160, SIDE_50MP, SIDE_50MP),
    "jpeg2000_single_tile_far": Case(jpeg2000_single_tile_far, 1000, 2**30, 2**30),
    "jpeg2000_small_tiles": Case(jpeg2000_small_tiles, 80, 200, 255),
    "jpeg2000_deep": Case(jpeg2000_deep, 16, 31, 38),
    "rle_literals": Case(rle_literals, 160, 3000, 4090),
    "rle_of_one_color": Case(rle_of_one_color, 160, SIDE_50MP, SIDE_50MP),
    "dicom_window": Case(dicom_window, 160, SIDE_50MP, SIDE_50MP),
}
