"""Decode DICOM radiographs. Patient data is not read, as only the tags named here are parsed."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import warnings
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from cxr.codestreams import CODINGS, decode_frame, join_fragments
from cxr.display import get_number, show_gray
from cxr.errors import MAX_BYTES, InvalidImageError
from cxr.pixels import check_size, to_gray

MODALITIES = {"CR": "computed radiography", "DX": "digital radiography", "RG": "film"}
LATERAL_VIEWS = ("L", "R", "LL", "RL", "LLD", "RLD")
LATERAL_WORD = re.compile(r"(?<![A-Z])[LR]{0,2}[ _-]?LAT")  # LATERAL, LLAT, R_LAT, LEFT LATERAL
ENCODINGS = {  # (is implicit, is little endian) to the syntax of a file that does not name it
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}
NEEDED = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")
GRAY = ("MONOCHROME1", "MONOCHROME2")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
TAGS = (
    "Modality",
    "ViewPosition",
    "ViewCodeSequence",
    "CodeMeaning",
    "BurnedInAnnotation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "LUTDescriptor",
    "LUTData",
    "PixelData",
)
MAX_VALUE_BYTES = 2**18  # of an element in the header; a lookup table of 16 bits takes half of it
MAX_READS = 100_000  # for a header; that of a film takes a few hundred


class _BoundedReads(io.BytesIO):
    """A file that stops its reader in a header of millions of elements."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise InvalidImageError("a DICOM file whose header has no end")
        return super().read(size)


def read_dicom(
    data: bytes, admit: Callable[[int, int], None] = check_size
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode a single-frame radiograph as it is meant to be displayed.

    The modality LUT or rescale is applied, then the first VOI LUT or window, and MONOCHROME1 is inverted
    (DICOM PS3.3 C.7.6.3, C.11.1, C.11.2). Deep gray is scaled to 8 bits as ``read_film`` says.

    Args:
        data: the file.
        admit: as in ``decode_film``.

    Returns:
        Pixels, uint8 (H, W), 0 black .. 255 white; and sentences that a viewer should know.

    Raises:
        InvalidImageError: if the file is not a radiograph, is too large, or cannot be decoded.
    """
    with _keep_quiet():
        return _read(data, admit)


def _read(data: bytes, admit: Callable[[int, int], None]) -> tuple[np.ndarray, tuple[str, ...]]:
    dataset = pydicom.dcmread(_BoundedReads(_inflate(data)), force=True, specific_tags=list(TAGS))
    _check_lengths(dataset)
    if "TransferSyntaxUID" not in dataset.file_meta:  # it was cut off with the preamble
        dataset.file_meta.TransferSyntaxUID = ENCODINGS[dataset.original_encoding]
    _check_kind(dataset)
    _check_samples(dataset)
    admit(dataset.Columns, dataset.Rows)
    coding = CODINGS.get(dataset.file_meta.TransferSyntaxUID)
    dtype = np.dtype(f"u{dataset.BitsAllocated // 8}")
    shape = (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
    if coding is None:
        pixels, precision = _read_plain(dataset, shape, dtype), dataset.BitsAllocated
    else:
        frame = join_fragments(dataset.PixelData)
        del dataset.PixelData
        pixels, precision = decode_frame(frame, coding, shape, dtype)
    if dataset.PhotometricInterpretation in GRAY:
        pixels = show_gray(pixels, dataset, precision)
    elif pixels.ndim == 3:
        pixels = _reduce_color(pixels, dataset.PhotometricInterpretation)
    notes = ()
    if dataset.get("BurnedInAnnotation") == "YES":
        notes = ("The file says that text is burned into the picture: it may name the patient.",)
    return pixels, notes


@contextlib.contextmanager
def _keep_quiet() -> Iterator[None]:
    """Suppress pydicom's log and warnings: they quote values, and a value may be a patient's name."""
    logger = logging.getLogger("pydicom")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


def _inflate(data: bytes) -> bytes:
    """Inflate the data set of a deflated file, without its preamble; return any other file unchanged."""
    stream = _BoundedReads(data)
    read_preamble(stream, force=True)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return data
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(stream.read(), MAX_BYTES + 1)
    if len(inflated) > MAX_BYTES:
        raise InvalidImageError(
            f"a deflated DICOM file that is inflated to more than {MAX_BYTES // 2**20} MB"
        )
    return inflated


def _read_plain(dataset: Dataset, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    """Read pixels that are not compressed, (H, W) or (H, W, 3)."""
    rows, columns, samples = shape
    is_little, data = dataset.original_encoding[1], dataset.PixelData
    if dtype.itemsize == 1 and not is_little and dataset["PixelData"].VR == "OW":
        data = np.frombuffer(data, np.uint16).byteswap()  # the low byte is the first of two pixels
    is_halved = dataset.PhotometricInterpretation == "YBR_FULL_422"  # two pixels share a color
    count = math.prod(shape) * (2 if is_halved else 3) // 3 if samples == 3 else rows * columns
    if memoryview(data).nbytes < count * dtype.itemsize:
        raise InvalidImageError(
            f"a damaged DICOM film: {memoryview(data).nbytes:,} bytes of pixels, where its header says "
            f"{count * dtype.itemsize:,}"
        )
    pixels = np.frombuffer(data, dtype.newbyteorder("<" if is_little else ">"), count)
    if samples == 1:
        return pixels.astype(dtype, copy=False).reshape(rows, columns)
    if is_halved:  # Y, Y, Cb, Cr
        return pixels.reshape(-1, 4)[:, :2].reshape(rows, columns)
    if get_number(dataset, "PlanarConfiguration") == 1:
        return np.moveaxis(pixels.reshape(samples, rows, columns), 0, -1)
    return pixels.reshape(shape)


def _reduce_color(pixels: np.ndarray, interpretation: str) -> np.ndarray:
    """Luma, uint8 (H, W), of uint8 (H, W, 3). Pixels of JPEG 2000 are already RGB."""
    if interpretation.startswith("YBR_FULL"):
        return np.ascontiguousarray(pixels[..., 0])
    return to_gray(Image.fromarray(np.ascontiguousarray(pixels)))


def _check_lengths(dataset: Dataset) -> None:
    """Refuse values longer than any in a film, since they would be parsed into lists of any size."""
    for tag in dataset.keys() - {Tag("PixelData")}:
        value = dataset.get_item(tag).value
        if isinstance(value, bytes) and len(value) > MAX_VALUE_BYTES:
            raise InvalidImageError(f"a DICOM file with a header element of {len(value):,} bytes")


def _check_kind(dataset: Dataset) -> None:
    """Refuse a file that is not a frontal radiograph, or has a form that is not decoded."""
    modality = _clean(dataset.get("Modality"))
    if modality and modality not in MODALITIES:
        raise InvalidImageError(f"a DICOM file of modality {modality}, which is no radiograph")
    if "PixelData" not in dataset:
        raise InvalidImageError("a DICOM file without an image")
    view = _get_view(dataset)
    if view.upper() in LATERAL_VIEWS or LATERAL_WORD.search(view.upper()):
        raise InvalidImageError(f"a lateral film (view position {view}), where a frontal one is needed")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise InvalidImageError(f"a DICOM file of {frames} frames, where a single film is needed")
    interpretation = _clean(dataset.get("PhotometricInterpretation"))
    if interpretation not in GRAY + COLOR:
        raise InvalidImageError(f"a DICOM film of photometric interpretation {interpretation}")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in CODINGS and syntax not in ENCODINGS.values():
        raise InvalidImageError(f"a DICOM film of transfer syntax {_clean(syntax.name)}")
    missing = [name for name in NEEDED if get_number(dataset, name) is None]
    if missing:
        raise InvalidImageError(f"a DICOM file without {', '.join(missing)}")


def _check_samples(dataset: Dataset) -> None:
    """Refuse samples whose number or depth is not decoded."""
    interpretation, samples = dataset.PhotometricInterpretation, dataset.SamplesPerPixel
    if samples != (1 if interpretation in GRAY else 3):
        raise InvalidImageError(f"a DICOM film of {samples} samples per pixel in {interpretation}")
    allocated, stored = dataset.BitsAllocated, dataset.BitsStored
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise InvalidImageError(
            f"a damaged or unsupported DICOM film: {stored} bits stored of {allocated} allocated, "
            "where 8 or 16 are read"
        )
    if samples == 3 and allocated != 8:
        raise InvalidImageError(f"a DICOM film in color of {allocated} bits per sample, where 8 are read")


def _get_view(dataset: Dataset) -> str:
    """The view position or, if there is none, the meaning of the view code."""
    codes = dataset.get("ViewCodeSequence")
    return _clean(dataset.get("ViewPosition")) or _clean(codes[0].get("CodeMeaning") if codes else "")


def _clean(value: object) -> str:
    """Keep the characters of a code, so that a header's text can be quoted in a sentence."""
    return re.sub(r"[^A-Za-z0-9_ ()-]", "", str(value or ""))[:48]
