"""The only way from a file to network pixels: decode, orient, reduce to gray, resize, stretch."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from cxr.decoding import shared_pool
from cxr.errors import MAX_BYTES, MAX_PIXELS, InvalidImageError
from cxr.pixels import check_size, samples_to_gray, to_gray
from cxr.structure import (
    STRIPS,
    TILES,
    check_scans,
    check_structure,
    is_webp,
    read_tiff_directory,
    read_webp_sizes,
)

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".dcm", ".dicom")
STRETCH_PERCENTILES = (1.0, 99.0)
ORIENTATION = 274  # EXIF tag
BITS_PER_SAMPLE, EXTRA_SAMPLES = 258, 338  # TIFF tags
ALPHAS = (1, 2)  # of EXTRA_SAMPLES; 0 is a filler
DEEP_TIFF_MODES = ("LA", "RGB", "RGBA")  # Pillow's, where samples are what they seem
DEEP_COLORS = ("RGB;16B", "RGBA;16B", "LA;16B")  # Pillow's names for PNG samples of 16 bits
TURNS = {  # EXIF 2.32, 4.6.4 A
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)

ImageFile = str | os.PathLike[str] | BinaryIO | Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class Film:
    """A decoded film.

    Attributes:
        pixels: uint8 (H, W), 0 black .. 255 white.
        notes: sentences on what was ignored or what a viewer should know; often none.
        decode_ms: wall time from reading the file to its pixels, without waiting for other films; 0 if
            it was not measured.
    """

    pixels: np.ndarray
    notes: tuple[str, ...]
    decode_ms: float = 0.0


def read_image(file: ImageFile, on_wait: Callable[[int], None] | None = None) -> np.ndarray:
    """Decode a film to gray pixels, as ``read_film`` does.

    Returns:
        uint8 (H, W), 0 black .. 255 white.

    Raises:
        InvalidImageError: if the file cannot be read, also if the path does not exist.
    """
    return read_film(file, on_wait).pixels


def read_film(file: ImageFile, on_wait: Callable[[int], None] | None = None) -> Film:
    """Decode an image or DICOM file. The format is detected from the content, not from the name.

    Sizes are checked on the header, before any pixel is decoded. Color is reduced with the ITU-R 601
    luma weights, transparency is composited over black, and of an animation the first frame is read.
    Deeper gray (16-bit, 32-bit, float) is scaled from its own minimum and maximum to 0..255, because
    files of 10 or 12 significant bits in 16 are common and do not record their full scale. If a few
    outliers, such as a burned-in marker, make this range more than twice as wide as that between the
    0.1st and the 99.9th percentile, these percentiles are used instead. For DICOM, see
    ``cxr.dicom.read_dicom``.

    Args:
        file: a path; a binary file object, which is read from its current position; or a function that
            returns the file's bytes. It is read when its turn has come, so that films that wait take no
            memory, and perhaps twice.
        on_wait: called while the film waits and is decoded, as ``DecoderPool.decode`` says.

    Raises:
        InvalidImageError: if the file cannot be read, also if the path does not exist.
    """
    read, start = make_reader(file), 0.0

    def read_in_turn() -> bytes:
        nonlocal start
        start = time.perf_counter()
        return read()

    pixels, notes = shared_pool().decode(read_in_turn, on_wait)
    return Film(pixels, notes, (time.perf_counter() - start) * 1e3)


def decode_film(data: bytes, admit: Callable[[int, int], None] = check_size) -> Film:
    """Decode a file as ``read_film`` does, but in this process, without limits on memory and time.

    Args:
        data: the file.
        admit: called with width and height, px, before any pixel is decoded; it raises to refuse them.

    Raises:
        InvalidImageError: if the file cannot be read.
    """
    try:
        if is_dicom(data):
            from cxr.dicom import read_dicom  # pydicom is slow to import, and most films are not DICOM

            pixels, notes = read_dicom(data, admit)
        else:
            pixels, notes = _read_picture(data, admit)
    except (InvalidImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise InvalidImageError(f"{_describe(data)}, which is no image of a known format") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, reached on opening
        raise InvalidImageError(f"an image of far more than {MAX_PIXELS // 10**6} megapixels") from error
    except Exception as error:  # decoders raise many kinds on damaged files; all mean the same here
        raise InvalidImageError(f"a damaged or unsupported image ({type(error).__name__})") from error
    if pixels.min() == pixels.max():
        raise InvalidImageError(f"a blank image (every pixel is {pixels.flat[0]})")
    return Film(pixels, notes)


def preprocess(pixels: np.ndarray, size: int, box: Box = WHOLE) -> np.ndarray:
    """Turn gray pixels of any size into network pixels.

    The box is cut out at the image's own resolution and resized to a square by antialiased bilinear
    interpolation. Then gray levels are stretched linearly so that the 1st percentile becomes 0 and the
    99th 255. Percentiles are taken after the resize, so that they do not depend on the resolution of the
    source.

    Args:
        pixels: uint8 (H, W).
        size: side of the square, px.
        box: the part of the image that is used, as shares of its width and height (x0, y0, x1, y1).

    Returns:
        uint8 (size, size, 1).

    Raises:
        ValueError: if ``pixels`` is not a uint8 array of two dimensions.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise ValueError(f"received pixels of {pixels.dtype} {pixels.shape}; accepted is uint8 (H, W)")
    resized = cut_out(pixels, (size, size), box).astype(np.float32)
    low, high = np.percentile(resized, STRETCH_PERCENTILES)
    stretched = (resized - low) * (255.0 / max(high - low, 1.0))
    return np.clip(np.rint(stretched), 0, 255).astype(np.uint8)[..., np.newaxis]


def cut_out(pixels: np.ndarray, shape: tuple[int, int], box: Box = WHOLE) -> np.ndarray:
    """Cut a box, as ``preprocess`` takes it, out of uint8 (H, W), and resize it by antialiased bilinear
    interpolation. Returns uint8 of ``shape``."""
    height, width = pixels.shape
    part = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    return np.asarray(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BILINEAR, box=part))


def _read_picture(data: bytes, admit: Callable[[int, int], None]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode a file that is not DICOM."""
    check_structure(data)
    notes = ()
    sizes = read_webp_sizes(data) if is_webp(data) else ()
    size = next(filter(None, sizes), None)
    if size:  # opening a WebP takes the memory of two canvases
        admit(*size)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if not size:
            admit(*image.size)
        if _has_more(image, data):
            notes = ("The file holds several pictures; only the first is read.",)
        if image.info.get("compression") in ("jpeg", "tiff_jpeg"):
            tags, _ = read_tiff_directory(data)
            check_scans(data, parts=max(tags[tag][1] for tag in (STRIPS, TILES) if tag in tags))
        decoder = _find_decoder(image)
        if decoder:
            turn = image.getexif().get(ORIENTATION)
        else:
            image.load()
            turn = image.getexif().get(ORIENTATION)  # only now: Pillow rotates a TIFF when it loads it
            pixels = to_gray(image)
    if decoder:
        import imagecodecs  # only the process that decodes needs it

        pixels = samples_to_gray(getattr(imagecodecs, decoder)(data))
    if turn in TURNS:  # after the reduction to gray, which takes a quarter of the memory
        pixels = np.asarray(Image.fromarray(pixels).transpose(TURNS[turn]))
    return pixels, notes


def _find_decoder(image: Image.Image) -> str | None:
    """The function of imagecodecs for images that Pillow decodes worse, or None.

    Pillow keeps only the high byte of deep colors, and it needs six canvases for a still WebP, whose
    pixels are the same with both.
    """
    if image.format == "WEBP" and not image.is_animated:
        return "webp_decode"
    if image.format == "PNG" and image.tile[0].args in DEEP_COLORS:
        return "png_decode"
    if image.format == "TIFF" and image.mode in DEEP_TIFF_MODES:
        bits, extra = (image.tag_v2.get(tag, ()) for tag in (BITS_PER_SAMPLE, EXTRA_SAMPLES))
        has_alpha = len(extra) == 1 and extra[0] in ALPHAS
        if len(bits) > 1 and set(bits) == {16} and (not extra or has_alpha):
            return "tiff_decode"
    return None


def _has_more(image: Image.Image, data: bytes) -> bool:
    """Whether a file has a second frame or page. Counting all pages of a hostile TIFF takes minutes."""
    if image.format == "TIFF":
        return read_tiff_directory(data)[1] != 0
    return getattr(image, "is_animated", False)


def make_reader(file: ImageFile) -> Callable[[], bytes]:
    """A function that reads the file, perhaps twice; what cannot be read twice is read at once."""
    if callable(file) or isinstance(file, (str, os.PathLike)):
        return functools.partial(_read_bytes, file)
    if not file.seekable():
        data = _read_bytes(file)
        return lambda: data
    start = file.tell()

    def read() -> bytes:
        file.seek(start)
        return _read_bytes(file)

    return read


def _read_bytes(file: ImageFile) -> bytes:
    if callable(file):
        data = file()
    elif isinstance(file, (str, os.PathLike)):
        path = Path(file)
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a null character
            reason = getattr(error, "strerror", None) or error
            raise InvalidImageError(f"a path that cannot be read ({reason})") from error
    else:
        data = file.read(MAX_BYTES + 1)
    if not data:
        raise InvalidImageError("an empty file")
    if len(data) > MAX_BYTES:
        raise InvalidImageError(f"a file of more than {MAX_BYTES // 2**20} MB")
    return data


def is_dicom(data: bytes) -> bool:
    """Whether the content of a file is DICOM.

    It has the prefix; or, if the preamble was cut off, its first element is of group 2 or 8 in either
    byte order.
    """
    if data[128:132] == b"DICM":
        return True
    if len(data) < 132:
        return False
    return any(
        group in (0x0002, 0x0008) and element <= 0x0070
        for group, element in (struct.unpack("<HH", data[:4]), struct.unpack(">HH", data[:4]))
    )


def _describe(data: bytes) -> str:
    """Name the kind of a file that Pillow does not know by its first bytes."""
    if data[:5] == b"%PDF-":
        return "a PDF document"
    if data[:2] == b"PK":
        return "a ZIP archive"
    return f"a file of {len(data):,} bytes"
