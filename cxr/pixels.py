"""Convert decoded pixels of any kind to uint8 gray, and check sizes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops

from cxr.errors import MAX_ASPECT, MAX_PIXELS, MIN_SIDE, InvalidImageError

DEEP_PERCENTILES = (0.1, 99.9)
MAX_OUTLIER_RANGE = 2.0
PERCENTILE_SAMPLE = 2**20  # evenly spaced pixels
ROWS_PER_BAND = 32
LUMA = np.array([19595, 38470, 7471], np.uint32)  # in 1/65536, the same as in Pillow
PHOTOMETRIC_INTERPRETATION = 262  # TIFF tag; 0 means that white is zero


def check_size(width: int, height: int) -> None:
    """Raise ``InvalidImageError`` if a size in px is too large, too small or that of a strip."""
    if width * height > MAX_PIXELS:
        raise InvalidImageError(
            f"an image of {width}x{height} px ({width * height / 1e6:.0f} megapixels)"
        )
    if min(width, height) < MIN_SIDE:
        raise InvalidImageError(f"an image of only {width}x{height} px")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidImageError(f"a strip of {width}x{height} px, not the shape of a chest film")


def to_gray(image: Image.Image) -> np.ndarray:
    """Convert a loaded image of any mode to uint8 (H, W), as ``read_film`` says."""
    if image.mode[0] in "IF":  # I, I;16, I;16B, F: deeper than 8 bits
        pixels = scale_to_uint8(np.asarray(image))
        tags = getattr(image, "tag_v2", {})
        is_white_zero = tags.get(PHOTOMETRIC_INTERPRETATION) == 0  # Pillow inverts only 8 bits
        return 255 - pixels if is_white_zero else pixels
    if "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBA", "RGBa"):
        image = _convert(image, "RGBA")
        return np.array(ImageChops.multiply(image.convert("L"), image.getchannel("A")))
    if image.mode not in ("1", "L"):
        image = _convert(image, "RGB")
    return np.array(_convert(image, "L"))


def samples_to_gray(samples: np.ndarray) -> np.ndarray:
    """Convert decoded samples to gray, as ``read_film`` says.

    Args:
        samples: uint8 or uint16 (H, W), (H, W, C) or, for separate planes, (C, H, W). C is 1 to 4: gray,
            gray and alpha, RGB, or RGB and alpha.

    Returns:
        uint8 (H, W).
    """
    if samples.ndim == 3 and samples.shape[0] <= 4:
        samples = np.moveaxis(samples, 0, -1)
    if samples.ndim == 3 and samples.shape[2] == 1:
        samples = samples[..., 0]
    if samples.ndim == 3 and samples.shape[2] <= 4:
        samples = _mix(samples)
    if samples.ndim != 2:
        raise InvalidImageError(f"an image of {samples.shape[-1]} samples a pixel")
    return samples if samples.dtype == np.uint8 else scale_to_uint8(samples)


def _mix(samples: np.ndarray) -> np.ndarray:
    """ITU-R 601 luma, composited over black if there is alpha: (H, W) of the same dtype, in bands."""
    channels, full = samples.shape[2], np.iinfo(samples.dtype).max
    gray = np.empty(samples.shape[:2], samples.dtype)
    for top in range(0, len(gray), ROWS_PER_BAND):
        band = samples[top : top + ROWS_PER_BAND].astype(np.uint32)  # the largest sum just fits
        mixed = band[..., 0]
        if channels > 2:
            red, green, blue = (band[..., i] * weight for i, weight in enumerate(LUMA))
            mixed = (red + green + blue + 0x8000) >> 16
        if channels in (2, 4):
            mixed = (mixed * band[..., -1] + full // 2) // full
        gray[top : top + ROWS_PER_BAND] = mixed
    return gray


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Convert without the copy that Pillow makes of an image that already has the mode."""
    return image if image.mode == mode else image.convert(mode)


def scale_to_uint8(deep: np.ndarray) -> np.ndarray:
    """Scale as ``read_film`` says, in bands of rows, because a large film would take gigabytes."""
    step = max(deep.size // PERCENTILE_SAMPLE, 1)
    sample = deep.ravel()[::step].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise InvalidImageError("an image without finite pixels")
    finite = np.isfinite(deep) if deep.dtype.kind == "f" else True
    low = float(np.min(deep, where=finite, initial=sample[0]))
    high = float(np.max(deep, where=finite, initial=sample[0]))
    low, high = choose_range(sample, low, high)
    scale = 255.0 / (high - low) if high > low else 0.0
    pixels = np.empty(deep.shape, np.uint8)
    for top in range(0, len(deep), ROWS_PER_BAND):
        band = deep[top : top + ROWS_PER_BAND].astype(np.float64)
        band = np.nan_to_num(band, nan=low, posinf=high, neginf=low)
        pixels[top : top + ROWS_PER_BAND] = np.rint(np.clip((band - low) * scale, 0, 255))
    return pixels


def choose_range(sample: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Choose the values that become black and white, as ``read_film`` says.

    Args:
        sample: float64 (N,), finite values of about a million pixels.
        low: the least value of all pixels.
        high: the greatest value of all pixels.
    """
    inner_low, inner_high = (float(value) for value in np.percentile(sample, DEEP_PERCENTILES))
    if inner_low < inner_high and high - low > MAX_OUTLIER_RANGE * (inner_high - inner_low):
        return inner_low, inner_high
    return low, high


def look_up(table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """``table[indices]`` in bands of rows, because NumPy converts each index to 8 bytes."""
    values = np.empty(indices.shape, table.dtype)
    for top in range(0, len(indices), ROWS_PER_BAND):
        values[top : top + ROWS_PER_BAND] = table[indices[top : top + ROWS_PER_BAND]]
    return values
