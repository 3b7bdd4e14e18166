"""Turn the samples of a DICOM film into the gray levels that are meant to be displayed.

Apart from the position of padding, a gray level depends on nothing but the sample. So it is computed once
for each of the 256 or 65,536 possible words, and looked up for the pixels.
"""

from __future__ import annotations

import math

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from cxr.errors import InvalidImageError
from cxr.pixels import PERCENTILE_SAMPLE, ROWS_PER_BAND, check_size, choose_range, look_up

BLACK = 0
WORDS = 2**16  # padding is given as a word of 16 bits, often with the wrong signedness
LEAST_WIDTH = {"LINEAR": 1.0, "LINEAR_EXACT": 0.0, "SIGMOID": 0.0}  # of a window; only LINEAR includes it


def show_gray(words: np.ndarray, dataset: Dataset, precision: int) -> np.ndarray:
    """Apply padding, modality LUT, VOI LUT or window, and MONOCHROME1.

    DICOM PS3.3 C.7.5.1.1.2, C.7.6.3.1.2, C.11.1 and C.11.2.

    Args:
        words: uint8 or uint16 (H, W), the stored bits of each sample.
        dataset: the header.
        precision: bits per sample of the compressed image, or bits per word if it is not compressed.

    Returns:
        uint8 (H', W'), 0 black .. 255 white, without the rows and columns of padding around the film.

    Raises:
        InvalidImageError: if a lookup table is cut off, or padding leaves too little of the film.
    """
    every_word = np.arange(2 ** (8 * words.itemsize)).astype(words.dtype)
    stored = _read_samples(every_word, dataset, precision)
    is_padding = _find_padding(every_word, stored, dataset)
    words, outside = _take_padding_off(words, is_padding)
    values = _apply_voi(_apply_modality(stored, dataset), dataset)
    table = values if values.dtype == np.uint8 else _scale(values, words, is_padding)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        table = 255 - table
    pixels = look_up(table, words)
    if outside is not None:
        pixels[outside] = BLACK
    return pixels


def get_number(dataset: Dataset, name: str) -> float | None:
    """The first value of a numeric element; None if it is absent, empty or not finite."""
    try:
        value = dataset.get(name)
        number = float(value[0] if isinstance(value, MultiValue) else value)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return number if np.isfinite(number) else None


def _read_samples(words: np.ndarray, dataset: Dataset, precision: int) -> np.ndarray:
    """The sample that each word stands for: int32, or uint8 for unsigned samples of 8 bits."""
    bits, top = dataset.BitsStored, int(get_number(dataset, "HighBit") or 0) + 1
    shift = top - bits if bits <= top <= precision else 0  # a codestream may store its bits lower
    if dataset.PixelRepresentation == 1:
        bits = min(bits, precision)  # has the sign; unsigned samples may exceed the precision
    samples = words.astype(np.int32) >> shift & (1 << bits) - 1
    if dataset.PixelRepresentation == 1:
        return samples - (samples >> (bits - 1) << bits)
    return samples.astype(np.uint8) if bits == 8 else samples


def _find_padding(words: np.ndarray, samples: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Which words are padding, bool (N,)."""
    ends = [get_number(dataset, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return np.zeros(len(words), bool)
    least = -WORDS // 2 if dataset.PixelRepresentation == 1 else 0
    ends = [(int(end) - least) % WORDS + least for end in ends if end is not None]
    low, high = min(ends), max(ends)
    if not samples.min() <= low <= high <= samples.max():  # padding may have more bits than samples
        samples = words.view(f"i{words.itemsize}") if least else words
    return (low <= samples) & (samples <= high)


def _take_padding_off(words: np.ndarray, is_padding: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Crop rows and columns that are only padding, and find the padding that is left around the film.

    Saturated parts of the film may have the value of padding and must not become holes. So a pixel is
    outside of the film only if a straight line of padding connects it with the border.
    """
    if not is_padding.any():
        return words, None
    padding = look_up(is_padding, words)
    rows, columns = (np.flatnonzero(~padding.all(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return words, None
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    words, padding = words[box], padding[box]
    check_size(*words.shape[::-1])
    outside = np.zeros_like(padding)
    for axis in (0, 1):
        outside |= np.logical_and.accumulate(padding, axis)
        outside |= np.flip(np.logical_and.accumulate(np.flip(padding, axis), axis), axis)
    return words, outside


def _scale(values: np.ndarray, words: np.ndarray, is_padding: np.ndarray) -> np.ndarray:
    """The gray level of each word, uint8, on the scale of ``read_film`` for the words in the film."""
    is_present = np.zeros(len(values), bool)
    for top in range(0, len(words), ROWS_PER_BAND):
        is_present[words[top : top + ROWS_PER_BAND]] = True
    is_counted = is_present & ~is_padding
    if not is_counted.any():  # there is only the value of padding, so it is not padding
        is_counted = is_present
    step = math.ceil(math.sqrt(words.size / PERCENTILE_SAMPLE))
    sample = words[::step, ::step]
    sample = values[sample[is_counted[sample]]].astype(np.float64)
    counted = values[is_counted].astype(np.float64)
    low, high = choose_range(sample if sample.size else counted, counted.min(), counted.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.rint(np.clip((values.astype(np.float64) - low) * scale, 0, 255)).astype(np.uint8)


def _apply_modality(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    if dataset.get("ModalityLUTSequence"):
        return _apply_table(values, dataset.ModalityLUTSequence[0], dataset)
    slope, intercept = get_number(dataset, "RescaleSlope"), get_number(dataset, "RescaleIntercept")
    if not slope or intercept is None or (slope, intercept) == (1, 0):
        return values
    return values * slope + intercept


def _apply_voi(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Apply the first VOI LUT or else the first window, if it is valid."""
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        if table.get("LUTDescriptor") and table.get("LUTData"):
            return _apply_table(values, table, dataset)
    center, width = get_number(dataset, "WindowCenter"), get_number(dataset, "WindowWidth")
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    least = LEAST_WIDTH.get(function, np.inf)
    if center is None or width is None or width < least or width == 0:
        return values
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -500, 500)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return np.clip((values - center) / max(width, 1e-9) + 0.5, 0, 1)


def _apply_table(values: np.ndarray, table: Dataset, dataset: Dataset) -> np.ndarray:
    """Apply a lookup table; values beyond its ends get its first or last entry."""
    length, first, bits = (int(value) for value in table.LUTDescriptor)
    length, entries = length or WORDS, table.LUTData
    if isinstance(entries, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        entries = np.frombuffer(entries, f"{order}u2" if len(entries) >= 2 * length else "u1")
    entries = np.asarray(entries)[:length].astype(np.uint8 if bits <= 8 else np.int32)
    if len(entries) < length:
        raise InvalidImageError("a DICOM film whose lookup table is cut off")
    return entries[np.clip(np.rint(values).astype(np.int64) - first, 0, length - 1)]
