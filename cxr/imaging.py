"""The only way from a file to network pixels: decode, orient, one gray channel, resize, stretch."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 64
MAX_ASPECT = 4.0
STRETCH_PERCENTILES = (1.0, 99.0)

ACCEPTED = (
    f"a JPEG, PNG, BMP, TIFF or WebP image of {MIN_SIDE} px or more a side, up to "
    f"{MAX_PIXELS // 1_000_000} megapixels and {MAX_BYTES // 2**20} MB"
)


class InvalidImageError(ValueError):
    """The file is not an image that can be scored; the message says what came and what is accepted."""

    def __init__(self, received: str) -> None:
        super().__init__(f"Received {received}; accepted is {ACCEPTED}.")


def read_image(file: str | os.PathLike[str] | BinaryIO) -> np.ndarray:
    """Decode an image file to gray pixels.

    Sizes are checked on the header, before any pixel is decoded. Color is reduced with the ITU-R 601
    luma weights; transparency is laid over black; the first frame of an animation is taken. Deeper
    gray (16-bit, 32-bit, float) is scaled from its own minimum and maximum to 0..255, because files
    of 10 or 12 significant bits in 16 are common and their full scale is not recorded.

    Args:
        file: a path, or a binary file object that is read from its current position.

    Returns:
        uint8 (H, W), 0 black .. 255 white.

    Raises:
        InvalidImageError: for everything that cannot be read, a missing path included.
    """
    data = _read_bytes(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata warns; it is not needed to see pixels
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image)
                image.load()
                pixels = _to_gray(ImageOps.exif_transpose(image))
    except InvalidImageError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, reached on opening
        raise InvalidImageError(f"an image of far more than {MAX_PIXELS // 10**6} megapixels") from error
    except UnidentifiedImageError as error:
        raise InvalidImageError(f"{_describe(data)}, which is no image of a known format") from error
    except Exception as error:  # decoders raise many kinds on damaged files; all mean the same here
        raise InvalidImageError(f"a damaged or unsupported image ({type(error).__name__})") from error
    if pixels.min() == pixels.max():
        raise InvalidImageError(f"a blank image (every pixel is {pixels.flat[0]})")
    return pixels


def preprocess(pixels: np.ndarray, size: int) -> np.ndarray:
    """Gray pixels of any size to network pixels.

    One antialiased bilinear resize of the whole frame, squeezed to a square, then gray levels
    stretched linearly so that the 1st percentile becomes 0 and the 99th 255. Percentiles are taken
    after the resize: they then do not depend on the resolution of the source.

    Args:
        pixels: uint8 (H, W).
        size: side of the square, px.

    Returns:
        uint8 (size, size, 1).

    Raises:
        ValueError: if ``pixels`` is not a uint8 array of two dimensions.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise ValueError(f"received pixels of {pixels.dtype} {pixels.shape}; accepted is uint8 (H, W)")
    resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    resized = np.asarray(resized, np.float32)
    low, high = np.percentile(resized, STRETCH_PERCENTILES)
    stretched = (resized - low) * (255.0 / max(high - low, 1.0))
    return np.clip(np.rint(stretched), 0, 255).astype(np.uint8)[..., np.newaxis]


def _read_bytes(file: str | os.PathLike[str] | BinaryIO) -> bytes:
    if isinstance(file, (str, os.PathLike)):
        path = Path(file)
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except OSError as error:
            raise InvalidImageError(f"a path that cannot be read ({error.strerror or error})") from error
    else:
        data = file.read(MAX_BYTES + 1)
    if not data:
        raise InvalidImageError("an empty file")
    if len(data) > MAX_BYTES:
        raise InvalidImageError(f"a file of more than {MAX_BYTES // 2**20} MB")
    return data


def _describe(data: bytes) -> str:
    """The kind of a file that Pillow does not know, from its first bytes."""
    if data[128:132] == b"DICM":
        return "a DICOM file"
    if data[:5] == b"%PDF-":
        return "a PDF document"
    if data[:2] == b"PK":
        return "a ZIP archive"
    return f"a file of {len(data):,} bytes"


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InvalidImageError(
            f"an image of {width}x{height} px ({width * height / 1e6:.0f} megapixels)"
        )
    if min(width, height) < MIN_SIDE:
        raise InvalidImageError(f"an image of only {width}x{height} px")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidImageError(f"a strip of {width}x{height} px, not the shape of a chest film")


def _to_gray(image: Image.Image) -> np.ndarray:
    if image.mode[0] in "IF":  # I, I;16, I;16B, F: deeper than 8 bits
        return _scale_to_uint8(np.asarray(image))
    if image.mode in ("L", "1"):
        return np.array(image.convert("L"))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return np.array(image.convert("RGB").convert("L"))


def _scale_to_uint8(deep: np.ndarray) -> np.ndarray:
    values = deep.astype(np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise InvalidImageError("an image without a single finite pixel")
    low, high = finite.min(), finite.max()
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / max(
        high - low, np.finfo(np.float64).tiny
    )
    return np.rint(scaled * 255).astype(np.uint8)
