"""The parts that the hostile files are built of: JPEG, PNG, TIFF, WebP, JPEG 2000 and DICOM by hand."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from pydicom.encaps import encapsulate

from tests.conftest import draw_film, make_dicom, save_dicom

FILM = draw_film(1, pneumonia=True, size=160)
SIDE_50MP = 7071  # px of a square film just within the limit
MAX_FILE = 64 * 2**20
MEGABYTE = 2**20


class Case(NamedTuple):
    """A class of files, and its sizes in the unit that ``build`` takes.

    Attributes:
        build: makes the file of a size.
        small: for tests of the outcome, harmless.
        moderate: for tests of memory; what takes gigabytes at the large size takes hundreds of MB here.
        large: as an attacker would choose it.
    """

    build: Callable[[int], bytes]
    small: int
    moderate: int
    large: int


def picture(image_format: str, image: Image.Image | None = None, **options) -> bytes:
    """A picture as Pillow writes it, by default of a small film."""
    file = io.BytesIO()
    (image or Image.fromarray(FILM)).save(file, image_format, **options)
    return file.getvalue()


def zeros(length: int, byte: int = 0, wbits: int = zlib.MAX_WBITS) -> bytes:
    """A zlib stream of so many equal bytes, made without holding them. ``wbits`` of -15: a raw stream."""
    block = bytes([byte]) * MEGABYTE
    packer = zlib.compressobj(9, wbits=-15)
    flushed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)  # refers to nothing before
    stream = flushed * (length // MEGABYTE)
    stream += packer.compress(block[: length % MEGABYTE]) + packer.flush()
    if wbits < 0:
        return stream
    checksum = 1
    for _ in range(length // MEGABYTE):
        checksum = zlib.adler32(block, checksum)
    checksum = zlib.adler32(block[: length % MEGABYTE], checksum)
    return b"\x78\xda" + stream + struct.pack(">I", checksum)


def jpeg_segment(marker: int, content: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_with(segments: bytes) -> bytes:
    """The small film as a JPEG, with more segments after its start."""
    film = picture("JPEG")
    return film[:2] + segments + film[2:]


def jpeg_of_zeros(
    width: int,
    height: int,
    frame: int,
    scans: bytes,
    components: int = 1,
    restart: int = 0,
    symbol: int = 0,
) -> bytes:
    """A JPEG with flat quantization and Huffman tables whose one code is ``0``.

    Args:
        width: px.
        height: px.
        frame: the SOF marker: 0xC0 baseline, 0xC2 progressive, 0xC9 arithmetic.
        scans: scan headers and their data.
        components: of the picture, all sampled equally.
        restart: blocks between restart markers; 0 for none.
        symbol: what the code of the AC table means; 0 is the end of a block.
    """
    one_code = bytes([1] + [0] * 15)
    parts = [b"\xff\xd8", jpeg_segment(0xDB, b"\0" + b"\1" * 64)]
    sampling = b"".join(bytes((i + 1, 0x11, 0)) for i in range(components))
    parts.append(jpeg_segment(frame, struct.pack(">BHHB", 8, height, width, components) + sampling))
    parts.append(jpeg_segment(0xC4, b"\x00" + one_code + b"\0\x10" + one_code + bytes([symbol])))
    if restart:
        parts.append(jpeg_segment(0xDD, struct.pack(">H", restart)))
    return b"".join([*parts, scans, b"\xff\xd9"])


def jpeg_of_scans(side: int) -> bytes:
    """A progressive JPEG with nearly a hundred passes over all coefficients, each of a few bytes."""
    runs = (-(-side // 8)) ** 2 // 32_767 + 1
    bits = ("0" + "1" * 14) * runs  # each is an end of 32,767 blocks (T.81, G.1.2.2)
    bits += "0" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    scans = jpeg_segment(0xDA, b"\1\1\0\0\0\x01") + b"\0" * 64
    scans += jpeg_segment(0xDA, b"\1\1\0\1\x3f\x01") + data
    scans += (jpeg_segment(0xDA, b"\1\1\0\1\x3f\x10") + data) * 97
    return jpeg_of_zeros(side, side, 0xC2, scans, symbol=0xE0)


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_with(chunks: bytes) -> bytes:
    """The small film as a PNG, with more chunks after its header."""
    film = picture("PNG")
    return film[:33] + chunks + film[33:]


def png_of_zeros(width: int, height: int, bits: int, color: int, interlaced: int = 0) -> bytes:
    """A PNG of black pixels. ``color`` is the color type: 0 gray, 2 RGB, 4 gray and alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    rows = height * (1 + (width * samples * bits + 7) // 8)
    # the passes of an interlaced picture have filter bytes and padding of their own
    data = zeros(rows * (2 if interlaced else 1))
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + chunks


SHORT, LONG, RATIONAL = 3, 4, 5
SIZES = {2: 1, SHORT: 2, LONG: 4, RATIONAL: 8}  # bytes; 2 is text


class Tag(NamedTuple):
    """A TIFF tag. ``values`` are packed already, little endian."""

    tag: int
    kind: int
    values: bytes


def short(tag: int, *values: int) -> Tag:
    return Tag(tag, SHORT, struct.pack(f"<{len(values)}H", *values))


def long(tag: int, *values: int) -> Tag:
    return Tag(tag, LONG, struct.pack(f"<{len(values)}I", *values))


def tiff(tags: Iterable[Tag], data: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF of one directory: its header, ``data`` from offset 8, the tags' values, and
    the directory with the offset of the following one."""
    body, entries = io.BytesIO(), []
    body.write(data + b"\0" * (len(data) % 2))
    for tag, kind, values in sorted(tags):
        inline = values.ljust(4, b"\0")
        if len(values) > 4:
            inline = struct.pack("<I", 8 + body.tell())
            body.write(values + b"\0" * (len(values) % 2))
        entries.append(struct.pack("<HHI", tag, kind, len(values) // SIZES[kind]) + inline)
    start = 8 + body.tell()
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", start) + body.getvalue() + directory


def gray(width: int, height: int, bits: int = 8, compression: int = 1) -> list[Tag]:
    """The tags of a gray picture that do not say where its pixels are. Compression: 1 none, 8 deflate."""
    size = [long(256, width), long(257, height), short(258, bits)]
    return [*size, short(259, compression), short(262, 1), short(277, 1)]


def riff_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return riff_chunk(b"RIFF", body)


def lossless(width: int, height: int) -> bytes:
    """A VP8L chunk of gray pixels that takes no bit a pixel: every code has a single symbol."""
    fields = [
        (0x2F, 8),
        (width - 1, 14),
        (height - 1, 14),
        (0, 1),
        (0, 3),
        (0, 3),
    ]  # no transform, cache, ...
    code = [(1, 1), (0, 1), (1, 1)]  # simple, one symbol, of 8 bits
    for symbol in (90, 90, 90, 255):  # green, red, blue, alpha
        fields += [*code, (symbol, 8)]
    fields += [(1, 1), (0, 1), (0, 1), (0, 1)]  # distance
    value = at = 0
    for field, bits in fields:
        value |= field << at
        at += bits
    return riff_chunk(b"VP8L", value.to_bytes((at + 7) // 8, "little") + b"\0" * 8)


def animation(side: int) -> bytes:
    """The chunks that start an animation on a square canvas."""
    canvas = (side - 1).to_bytes(3, "little")
    header = riff_chunk(b"VP8X", struct.pack("<I", 0x02) + canvas + canvas)
    return header + riff_chunk(b"ANIM", struct.pack("<IH", 0xFFFFFFFF, 0))


def animation_frame(side: int) -> bytes:
    size = (side - 1).to_bytes(3, "little")
    where = b"\0" * 6 + size + size + (10).to_bytes(3, "little") + b"\0"
    return riff_chunk(b"ANMF", where + lossless(side, side))


def codestream(
    width: int,
    height: int,
    *,
    tile: tuple[int, int] | None = None,
    components: int = 1,
    bits: int = 8,
    signed: bool = False,
    levels: int = 5,
    layers: int = 1,
    block: int = 6,
    precinct: int | None = None,
    tiles: int = 1,
    offset: int = 0,
    first: bytes = b"",
) -> bytes:
    """A JPEG 2000 codestream whose packets are empty but for the first: their coefficients are zero.

    Args:
        width: px.
        height: px.
        tile: width and height, px; by default the picture's.
        components: of the picture.
        bits: of a sample.
        signed: whether samples are.
        levels: of wavelet decomposition.
        layers: of quality.
        block: binary logarithm of a code block's sides, 2 .. 6.
        precinct: binary logarithm of a precinct's sides at every resolution; by default 15.
        tiles: how many have a tile part in the file.
        offset: of the picture on the reference grid, in both directions, px.
        first: the packet of the lowest resolution, by default empty too.
    """
    right, low = width + offset, height + offset
    size = (right, low, offset, offset, *(tile or (right, low)), 0, 0)
    siz = struct.pack(">H8IH", 0, *size, components)
    siz += bytes((bits - 1 | signed << 7, 1, 1)) * components
    cod = struct.pack(">BBHB", precinct is not None, 0, layers, 0)
    cod += bytes((levels, block - 2, block - 2, 0, 1))
    if precinct is not None:
        cod += bytes([precinct << 4 | precinct]) * (levels + 1)
    qcd = b"\x40" + bytes([min(bits, 31) << 3]) * (3 * levels + 1)
    parts = [b"\xff\x4f", *(jpeg_segment(m, c) for m, c in ((0x51, siz), (0x52, cod), (0x5C, qcd)))]
    packets = first + bytes(min(components * (levels + 1), 64))
    for i in range(tiles):
        parts.append(
            struct.pack(">HHHIBB", 0xFF90, 10, i, 14 + len(packets), 0, 1) + b"\xff\x93" + packets
        )
    return b"".join([*parts, b"\xff\xd9"])


def lowest_resolution(side: int, levels: int = 5) -> bytes:
    """The first packet of a picture of 16 bits that gets brighter from its top to its bottom."""
    low = -(-side // 2**levels)
    ramp = np.linspace(0, 65_535, low).astype(np.uint16).repeat(low).reshape(low, low)
    film = picture("JPEG2000", Image.fromarray(ramp), no_jp2=True, num_resolutions=1)
    return film[film.index(b"\xff\x93") + 2 : -2]


def dicom_of(frame: bytes | Sequence[bytes], syntax: str, width: int, height: int, **tags) -> bytes:
    """A DICOM film around a compressed frame, or around its fragments."""
    dataset = make_dicom(FILM, Columns=width, Rows=height, **tags)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame]) if isinstance(frame, bytes) else b"".join(frame)
    dataset["PixelData"].is_undefined_length = True
    return save_dicom(dataset)


def dicom_of_pixels(length: int, width: int, height: int, **tags) -> bytes:
    """A DICOM film of a gradient of so many bytes, uncompressed."""
    ramp = bytes(range(256)) * (length // 256 + 1)
    return save_dicom(make_dicom(FILM, Columns=width, Rows=height, PixelData=ramp[:length], **tags))
