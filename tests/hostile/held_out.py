"""Classes of pictures that no limit was made for, by name; ``held_out_dicom`` has those of DICOM."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from functools import partial

from PIL import Image

from tests.hostile import build
from tests.hostile.build import (
    FILM,
    LONG,
    MAX_FILE,
    RATIONAL,
    SHORT,
    SIDE_50MP,
    Case,
    Tag,
    gray,
    jpeg_segment,
    jpeg_with,
    long,
    picture,
    png_chunk,
    png_with,
    riff_chunk,
    short,
    tiff,
    webp,
    zeros,
)

FULL = MAX_FILE - 2**16
WIDE = (14_140, 3535)  # 4 to 1, within 50 megapixels


def png_profile(length: int) -> bytes:
    """An ICC profile that inflates to so many bytes."""
    return png_with(png_chunk(b"iCCP", b"icc\0\0" + zeros(length)))


def png_texts(length: int) -> bytes:
    """Compressed texts of 1 MB each, which is Pillow's limit of one."""
    text = png_chunk(b"zTXt", b"Comment\0\0" + zeros(2**20 - 1))
    return png_with(text * (length // 2**20))


def png_data_chunks(count: int) -> bytes:
    """The picture's data in so many chunks, nearly all of them empty."""
    film = picture("PNG")
    at = film.index(b"IDAT") - 4
    return film[:at] + png_chunk(b"IDAT") * count + film[at:]


def png_frames(frames: int) -> bytes:
    """An animation (APNG) of so many frames."""
    film = picture("PNG")
    head, data = film[:33], film[33:-12]
    parts, number = [head, png_chunk(b"acTL", struct.pack(">II", frames, 0))], 0
    control = struct.pack(">IIIIHHBB", 160, 160, 0, 0, 1, 100, 0, 0)
    parts += [png_chunk(b"fcTL", struct.pack(">I", 0) + control), data]
    small = struct.pack(">IIIIHHBB", 1, 1, 0, 0, 1, 100, 0, 0)
    for _ in range(frames - 1):
        parts.append(png_chunk(b"fcTL", struct.pack(">I", number + 1) + small))
        parts.append(png_chunk(b"fdAT", struct.pack(">I", number + 2) + zlib.compress(b"\0\0")))
        number += 2
    return b"".join([*parts, film[-12:]])


def png_interlaced_wide(width: int) -> bytes:
    """Interlaced, 16 bits, RGBA, as wide as a film may be: eight bytes a pixel and seven passes."""
    return build.png_of_zeros(width, width // 4 + 1, bits=16, color=6, interlaced=1)


def png_rgb_16(side: int) -> bytes:
    return build.png_of_zeros(side, side, bits=16, color=2)


def png_strip(width: int) -> bytes:
    """One row."""
    return build.png_of_zeros(width, 1, bits=8, color=0)


def gif(side: int) -> bytes:
    """A format that is not accepted."""
    return picture("GIF", Image.new("L", (side, side), 90))


def webp_frames(frames: int) -> bytes:
    return webp(build.animation(160), build.animation_frame(160), build.animation_frame(1) * (frames - 1))


def webp_canvas_beyond(side: int) -> bytes:
    """A canvas beyond the limit of pixels, which the decoder allocates on opening."""
    return webp(build.animation(side), build.animation_frame(1))


def webp_of_one_color(side: int) -> bytes:
    """A still picture whose pixels take no bits."""
    return webp(build.lossless(side, side))


def webp_metadata(length: int) -> bytes:
    """A still picture with XMP of so many bytes."""
    side = (160 - 1).to_bytes(3, "little")
    header = riff_chunk(b"VP8X", struct.pack("<I", 0x04) + side + side)
    return webp(header, build.lossless(160, 160), riff_chunk(b"XMP ", b" " * length))


def bmp_of_runs(side: int) -> bytes:
    """RLE of 8 bits in runs of a single pixel, as many as a file may have, then jumps over rows."""
    runs = b"\x01\x40" * min(side * side, FULL // 2) + b"\0\2\xff\xff" * (side // 255 + 1) + b"\0\1"
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    start = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(runs), 0, 0, start) + header + palette + runs


def tiff_directories(pages: int) -> bytes:
    """A chain of so many pages, the last of which leads back to the first."""
    film = tiff([*gray(160, 160), long(273, 8), long(279, 160 * 160), long(278, 160)], FILM.tobytes())
    chain, start = bytearray(film), len(film)
    entries = b"".join(struct.pack("<HHII", t.tag, t.kind, 1, 1) for t in gray(1, 1))
    page = struct.pack("<H", 6) + entries
    for i in range(pages):
        following = start + (i + 1) * (len(page) + 4) if i < pages - 1 else start
        chain += page + struct.pack("<I", following)
    chain[start - 4 : start] = struct.pack("<I", start)
    return bytes(chain)


def tiff_deflated(side: int) -> bytes:
    """A square of zeros in one strip."""
    data = zeros(side * side)
    return tiff([*gray(side, side, compression=8), long(273, 8), long(279, len(data))], data)


def tiff_zeros(compression: str, side: int) -> bytes:
    return picture("TIFF", Image.new("L", (side, side)), compression=compression)


def tiff_not_finite(side: int) -> bytes:
    """Floats that are not a number (0xFFFFFFFF is one)."""
    data = zeros(side * side * 4, 0xFF)
    strip = [long(273, 8), long(279, len(data)), short(339, 3)]
    return tiff([*gray(side, side, bits=32, compression=8), *strip], data)


def tiff_samples(samples: int) -> bytes:
    tags = [t for t in gray(160, 160) if t.tag not in (258, 277)]
    tags += [Tag(258, SHORT, struct.pack("<H", 8) * samples), short(277, samples)]
    return tiff([*tags, long(273, 8), long(279, 160 * 160)], FILM.tobytes())


def tiff_odd_bits(bits: int) -> bytes:
    return tiff([*gray(160, 160, bits=bits), long(273, 8), long(279, 160 * 160)], FILM.tobytes() * 8)


def tiff_rationals(count: int) -> bytes:
    """A resolution of so many fractions, each of which becomes an object."""
    tags = [*gray(160, 160), long(273, 8), long(279, 160 * 160)]
    return tiff([*tags, Tag(282, RATIONAL, struct.pack("<II", 1, 3) * count)], FILM.tobytes())


def tiff_description(length: int) -> bytes:
    tags = [*gray(160, 160), long(273, 8), long(279, 160 * 160), Tag(270, 2, b"x" * length + b"\0")]
    return tiff(tags, FILM.tobytes())


def tiff_tags(count: int) -> bytes:
    """A directory of private tags, each with values of its own."""
    tags = [*gray(160, 160), long(273, 8), long(279, 160 * 160)]
    return tiff(
        [*tags, *(Tag(40_000 + i, LONG, b"\1\0\0\0" * 200) for i in range(count))], FILM.tobytes()
    )


def jpeg_restarts(side: int) -> bytes:
    """A restart marker after every block."""
    blocks = (-(-side // 8)) ** 2
    turn = b"".join(b"\x3f\xff" + bytes([0xD0 + i]) for i in range(8))
    scan = jpeg_segment(0xDA, b"\1\1\0\0\x3f\0") + turn * (blocks // 8 + 1)
    return build.jpeg_of_zeros(side, side, 0xC0, scan, restart=1)


def jpeg_arithmetic(side: int) -> bytes:
    scan = jpeg_segment(0xDA, b"\1\1\0\0\x3f\0") + b"\0" * 64
    return build.jpeg_of_zeros(side, side, 0xC9, scan)


def jpeg_components(components: int) -> bytes:
    scan = jpeg_segment(0xDA, b"\1\1\0\0\x3f\0") + b"\0" * 64
    return build.jpeg_of_zeros(160, 160, 0xC0, scan, components=components)


def jpeg_without_height(lines: int) -> bytes:
    """The height is zero in the frame's header, and given after the scan (DNL)."""
    scan = jpeg_segment(0xDA, b"\1\1\0\0\x3f\0") + b"\0" * 64
    return build.jpeg_of_zeros(160, 0, 0xC0, scan + jpeg_segment(0xDC, struct.pack(">H", lines)))


def jpeg_fill_bytes(count: int) -> bytes:
    """Fill bytes before a marker."""
    return jpeg_with(b"\xff" * count)


def jpeg_comments(count: int) -> bytes:
    return jpeg_with(jpeg_segment(0xFE) * count)


def jpeg_profile_parts(count: int) -> bytes:
    """An ICC profile in so many parts."""
    return jpeg_with(jpeg_segment(0xE2, b"ICC_PROFILE\0\1\xff" + b"\0" * 8) * count)


def jpeg_photoshop_blocks(count: int) -> bytes:
    """Segments of empty Photoshop resources."""
    blocks = b"8BIM\x04\x00\0\0\0\0\0\0" * min(count, 5000)
    return jpeg_with(jpeg_segment(0xED, b"Photoshop 3.0\0" + blocks) * (count // 5000 + 1))


def jpeg_pictures(count: int) -> bytes:
    """An index of so many pictures in one file (MPO)."""
    film = picture("JPEG")
    entry = struct.pack("<IIIHH", 0x030000, len(film), 0, 0, 0)
    directory = struct.pack("<H", 3)
    directory += struct.pack("<HHI4s", 0xB000, 7, 4, b"0100") + struct.pack("<HHII", 0xB001, 4, 1, count)
    directory += struct.pack("<HHII", 0xB002, 7, 16 * count, 8 + 2 + 36 + 4) + struct.pack("<I", 0)
    return jpeg_with(jpeg_segment(0xE2, b"MPF\0II*\0" + struct.pack("<I", 8) + directory + entry * count))


def zip_nested(depth: int) -> bytes:
    """Archives in archives."""
    data = picture("PNG")
    for i in range(depth):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{i}.zip", data)
        data = file.getvalue()
    return data


HELD_OUT = {
    "png_profile": Case(png_profile, 10**6, 10**9, 20 * 10**9),
    "png_texts": Case(png_texts, 2**22, 2**29, 2**34),
    "png_data_chunks": Case(png_data_chunks, 1000, 10**6, FULL // 12),
    "png_frames": Case(png_frames, 10, 10**5, 800_000),
    "png_interlaced_wide": Case(png_interlaced_wide, 640, 14_000, WIDE[0]),
    "png_rgb_16": Case(png_rgb_16, 160, SIDE_50MP, SIDE_50MP),
    "png_strip": Case(png_strip, 1000, 10**7, 50_000_000),
    "gif": Case(gif, 160, 1000, SIDE_50MP),
    "webp_frames": Case(webp_frames, 10, 10**5, 500_000),
    "webp_canvas_beyond": Case(webp_canvas_beyond, 8000, 16_383, 32_767),
    "webp_of_one_color": Case(webp_of_one_color, 160, SIDE_50MP, SIDE_50MP),
    "webp_metadata": Case(webp_metadata, 1000, 2**25, FULL),
    "bmp_of_runs": Case(bmp_of_runs, 160, 3000, SIDE_50MP),
    "tiff_directories": Case(tiff_directories, 100, 10**5, FULL // 78),
    "tiff_deflated": Case(tiff_deflated, 160, SIDE_50MP, SIDE_50MP),
    "tiff_lzw": Case(partial(tiff_zeros, "tiff_lzw"), 160, SIDE_50MP, SIDE_50MP),
    "tiff_lzma": Case(partial(tiff_zeros, "lzma"), 160, SIDE_50MP, SIDE_50MP),
    "tiff_zstd": Case(partial(tiff_zeros, "zstd"), 160, SIDE_50MP, SIDE_50MP),
    "tiff_jpeg": Case(partial(tiff_zeros, "jpeg"), 160, SIDE_50MP, SIDE_50MP),
    "tiff_not_finite": Case(tiff_not_finite, 160, SIDE_50MP, SIDE_50MP),
    "tiff_samples": Case(tiff_samples, 7, 1000, 65_535),
    "tiff_odd_bits": Case(tiff_odd_bits, 13, 31, 65_535),
    "tiff_rationals": Case(tiff_rationals, 100, 2**20, FULL // 8),
    "tiff_description": Case(tiff_description, 10**5, 2**25, FULL),
    "tiff_tags": Case(tiff_tags, 100, 10_000, 25_000),
    "jpeg_restarts": Case(jpeg_restarts, 160, SIDE_50MP, SIDE_50MP),
    "jpeg_scans": Case(build.jpeg_of_scans, 160, 2000, SIDE_50MP),
    "jpeg_arithmetic": Case(jpeg_arithmetic, 160, SIDE_50MP, SIDE_50MP),
    "jpeg_components": Case(jpeg_components, 12, 255, 255),
    "jpeg_without_height": Case(jpeg_without_height, 160, 160, 65_535),
    "jpeg_fill_bytes": Case(jpeg_fill_bytes, 10**4, 2**24, FULL),
    "jpeg_comments": Case(jpeg_comments, 1000, FULL // 8, FULL // 4),
    "jpeg_profile_parts": Case(jpeg_profile_parts, 1000, 10**6, FULL // 26),
    "jpeg_photoshop_blocks": Case(jpeg_photoshop_blocks, 1000, 10**6, FULL // 12),
    "jpeg_pictures": Case(jpeg_pictures, 10, 4000, 4000),
    "zip_nested": Case(zip_nested, 3, 100, 1000),
}
