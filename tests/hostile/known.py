"""The classes that version 0.1.0 fell to, by name."""

from __future__ import annotations

import struct

from pydicom.uid import JPEG2000Lossless, RLELossless

from tests.hostile.build import (
    FILM,
    LONG,
    MAX_FILE,
    SIDE_50MP,
    Case,
    Tag,
    animation,
    animation_frame,
    codestream,
    dicom_of,
    gray,
    jpeg_segment,
    jpeg_with,
    long,
    lowest_resolution,
    png_chunk,
    png_with,
    tiff,
    webp,
    zeros,
)

SPARE = 2**16  # bytes that a file's other parts may take


def jpeg2000_precincts(side: int) -> bytes:
    """DICOM: JPEG 2000 with precincts of 1 px, each of which the decoder keeps some hundred bytes for."""
    return dicom_of(codestream(side, side, levels=0, precinct=0), JPEG2000Lossless, side, side)


def jpeg2000_tiles_and_layers(tiles: int) -> bytes:
    """DICOM: JPEG 2000 of so many tiles of 64 px, each with 65,535 empty layers."""
    across = max(round(tiles**0.5), 2)
    side = 64 * across
    frame = codestream(side, side, tile=(64, 64), levels=5, layers=65_535, tiles=across**2)
    return dicom_of(frame, JPEG2000Lossless, side, side)


def webp_canvas(side: int) -> bytes:
    """An animation of one tiny frame on a canvas of ``side`` px."""
    return webp(animation(side), animation_frame(1))


def tiff_giant_tile(side: int) -> bytes:
    """A picture of 160 px in one tile of ``side`` px, deflated."""
    data = zeros(side * side)
    tile = [long(322, side), long(323, side), long(324, 8), long(325, len(data))]
    return tiff([*gray(160, 160, compression=8), *tile], data)


def tiff_tall_tiles(rows: int) -> bytes:
    """A wide picture in tiles of 16 px by so many rows, which all share one stream."""
    data = zeros(16 * rows)
    count = -(-SIDE_50MP // 16)
    tiles = [long(322, 16), long(323, rows), long(324, *[8] * count), long(325, *[len(data)] * count)]
    return tiff([*gray(SIDE_50MP, SIDE_50MP // 4 + 1, compression=8), *tiles], data)


def tiff_strips(strips: int) -> bytes:
    """A picture of 160 px with so many strips, of which only the first are needed."""
    tags = [short_rows(1), Tag(273, LONG, struct.pack("<I", 8) * strips), long(279, 160)]
    return tiff([*gray(160, 160), *tags], FILM.tobytes())


def short_rows(rows: int) -> Tag:
    """RowsPerStrip."""
    return long(278, rows)


def rle_expands(length: int) -> bytes:
    """DICOM: an RLE segment of so many bytes, each pair of which expands to 128."""
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    return dicom_of(header + b"\x81\x40" * (length // 2), RLELossless, 160, 160)


def jpeg_empty_segments(count: int) -> bytes:
    return jpeg_with(jpeg_segment(0xE1) * count)


def jpeg_exif_parts(parts: int) -> bytes:
    """EXIF in so many parts; each is appended to what came before."""
    return jpeg_with(jpeg_segment(0xE1, b"Exif\0\0" + b"\0" * 60) * parts)


def png_private_chunks(length: int) -> bytes:
    """Empty private chunks of so many bytes in all."""
    return png_with(png_chunk(b"prVt") * (length // 12))


def jpeg2000_signed(side: int) -> bytes:
    """DICOM: signed 16-bit JPEG 2000 of its lowest resolution alone, with a window."""
    frame = codestream(side, side, bits=16, signed=True, first=lowest_resolution(side))
    tags = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
    tags |= {"RescaleSlope": "0.5", "RescaleIntercept": "7", "WindowCenter": 0, "WindowWidth": 30_000}
    return dicom_of(frame, JPEG2000Lossless, side, side, **tags)


FULL = MAX_FILE - SPARE
KNOWN = {
    "jpeg2000_precincts": Case(jpeg2000_precincts, 160, 1800, SIDE_50MP),
    "jpeg2000_tiles_and_layers": Case(jpeg2000_tiles_and_layers, 9, 256, 4096),
    "webp_canvas": Case(webp_canvas, 160, SIDE_50MP, SIDE_50MP),
    "tiff_giant_tile": Case(tiff_giant_tile, 256, 40_000, 45_000),
    "tiff_tall_tiles": Case(tiff_tall_tiles, 2048, 2**17, 2**26),
    "tiff_strips": Case(tiff_strips, 1000, 3_000_000, FULL // 4),
    "rle_expands": Case(rle_expands, 2**10, FULL // 2, FULL),
    "jpeg_empty_segments": Case(jpeg_empty_segments, 1000, FULL // 8, FULL // 4),
    "jpeg_exif_parts": Case(jpeg_exif_parts, 100, 10_000, 120_000),
    "png_private_chunks": Case(png_private_chunks, 2**10, FULL // 4, FULL),
    "jpeg2000_signed": Case(jpeg2000_signed, 160, SIDE_50MP, SIDE_50MP),
}
