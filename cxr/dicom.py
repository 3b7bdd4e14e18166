"""DICOM radiographs to gray pixels. Patient data is not read: only the tags named here are parsed."""

from __future__ import annotations

import io
import logging
import re
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from cxr.errors import InvalidImageError
from cxr.pixels import check_size, scale_to_uint8, to_gray
from cxr.structure import check_scans

MODALITIES = {"CR": "computed radiography", "DX": "digital radiography", "RG": "film"}
LATERAL_VIEWS = ("LL", "RL", "LLD", "RLD", "LATERAL")
DECODERS = {  # by transfer syntax: the plugin of pydicom, none where nothing is compressed
    "1.2.840.10008.1.2": "",  # implicit little endian
    "1.2.840.10008.1.2.1": "",  # explicit little endian
    "1.2.840.10008.1.2.2": "",  # explicit big endian
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline
    "1.2.840.10008.1.2.4.51": "pillow",  # JPEG extended, of 8 bits
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG lossless
    "1.2.840.10008.1.2.4.70": "gdcm",  # JPEG lossless, first order
    "1.2.840.10008.1.2.4.80": "gdcm",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81": "gdcm",  # JPEG-LS near lossless
    "1.2.840.10008.1.2.4.90": "pillow",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91": "pillow",  # JPEG 2000
}
ISOLATED = "gdcm"  # see isolated_decoder.py
ISOLATED_SECONDS = 60
_decoders = threading.BoundedSemaphore(2)  # each may take gigabytes
ENCODINGS = {  # is implicit, is little endian: the syntax of a file that does not name it
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}
NEEDED = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")
GRAY = ("MONOCHROME1", "MONOCHROME2")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
TAGS = (
    "SOPClassUID",
    "Modality",
    "ViewPosition",
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
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "LUTDescriptor",
    "LUTData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
)
MAX_VALUE_BYTES = 2**18  # of a header's element; a lookup table of 16 bits takes half of it
MAX_READS = 100_000  # of a header; a film's takes a few hundred
JPEG_START, JPEG_SCAN = 0xD8, 0xDA
JPEG_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF markers, JPEG-LS's last
JPEG2000_START = b"\xff\x4f\xff\x51"  # SOC, SIZ

# both would quote values, and a value may be a patient's name
logging.getLogger("pydicom").disabled = True
warnings.filterwarnings("ignore", module=r"pydicom\..*")


class _BoundedReads(io.BytesIO):
    """A file whose reader gives up on a header of millions of elements."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise InvalidImageError("a DICOM file whose header has no end")
        return super().read(size)


def read_dicom(
    data: bytes, admit: Callable[[int, int], None] = check_size
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode a single-frame radiograph as it is meant to be seen.

    The modality LUT or rescale, then the first VOI LUT or window, then MONOCHROME1 inverted (DICOM
    PS3.3 C.7.6.3, C.11.1, C.11.2). Deep gray is scaled to 8 bits as ``read_image`` says.

    Args:
        data: the file.
        admit: as in ``decode_film``.

    Returns:
        Pixels, uint8 (H, W), 0 black .. 255 white; and sentences on what a viewer should know.

    Raises:
        InvalidImageError: if it is no radiograph, too large, or cannot be decoded.
    """
    if DeflatedExplicitVRLittleEndian.encode() in data:  # would be inflated whole, to any size
        raise InvalidImageError("a DICOM film of transfer syntax Deflated Explicit VR Little Endian")
    dataset = pydicom.dcmread(_BoundedReads(data), force=True, specific_tags=list(TAGS))
    _check_lengths(dataset)
    if "TransferSyntaxUID" not in dataset.file_meta:  # cut off with the preamble
        dataset.file_meta.TransferSyntaxUID = ENCODINGS[dataset.original_encoding]
    _check_kind(dataset)
    admit(int(dataset.Columns), int(dataset.Rows))
    decoder = DECODERS[dataset.file_meta.TransferSyntaxUID]
    if decoder not in ("", "pydicom"):
        _check_codestream(dataset)
    if decoder == ISOLATED:
        array = _decode_isolated(data)
    else:
        array = pixel_array(dataset, decoding_plugin=decoder)
    if array.shape[:2] != (dataset.Rows, dataset.Columns):
        raise InvalidImageError("a DICOM film whose image contradicts its header")
    if dataset.PhotometricInterpretation in COLOR:
        if array.dtype != np.uint8:
            raise InvalidImageError(f"a DICOM film in color of {dataset.BitsAllocated} bits")
        pixels = to_gray(Image.fromarray(array))
    else:
        pixels = _to_display(array, dataset)
    notes = ()
    if dataset.get("BurnedInAnnotation") == "YES":
        notes = ("The file says that text is burned into the picture: it may name the patient.",)
    return pixels, notes


def _decode_isolated(data: bytes) -> np.ndarray:
    """Pixels of a frame whose decoder must not run in this process."""
    script = Path(__file__).with_name("isolated_decoder.py")
    try:
        with _decoders:
            done = subprocess.run(
                [sys.executable, "-I", script],
                input=data,
                capture_output=True,
                timeout=ISOLATED_SECONDS,
                check=True,
            )
    except subprocess.TimeoutExpired as error:
        raise InvalidImageError("a DICOM film that takes too long to decode") from error
    except subprocess.CalledProcessError as error:
        raise InvalidImageError("a DICOM film whose compressed image is damaged") from error
    return np.load(io.BytesIO(done.stdout), allow_pickle=False)


def _to_display(array: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Stored gray values to what is meant to be seen, uint8 (H, W)."""
    values = apply_voi_lut(apply_modality_lut(array, dataset), dataset)
    pixels = values if values.dtype == np.uint8 else scale_to_uint8(values)
    return 255 - pixels if dataset.PhotometricInterpretation == "MONOCHROME1" else pixels


def _check_lengths(dataset: Dataset) -> None:
    """Refuse values of a length that no film has: they are parsed into lists of any size."""
    for tag in dataset.keys() - {Tag("PixelData")}:
        value = dataset.get_item(tag).value
        if isinstance(value, bytes) and len(value) > MAX_VALUE_BYTES:
            raise InvalidImageError(f"a DICOM file with a header element of {len(value):,} bytes")


def _check_kind(dataset: Dataset) -> None:
    """Refuse what is no frontal radiograph, or in a form that is not decoded, with the reason."""
    modality = _clean(dataset.get("Modality"))
    if modality and modality not in MODALITIES:
        raise InvalidImageError(f"a DICOM file of modality {modality}, which is no radiograph")
    if "PixelData" not in dataset:
        raise InvalidImageError("a DICOM file without an image")
    view = _clean(dataset.get("ViewPosition"))
    if view in LATERAL_VIEWS:
        raise InvalidImageError(f"a lateral film (view position {view}), where a frontal one is needed")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise InvalidImageError(f"a DICOM file of {frames} frames, where a single film is needed")
    interpretation = _clean(dataset.get("PhotometricInterpretation"))
    if interpretation not in GRAY + COLOR:
        raise InvalidImageError(f"a DICOM film of photometric interpretation {interpretation}")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in DECODERS:
        raise InvalidImageError(f"a DICOM film of transfer syntax {_clean(syntax.name)}")
    missing = [name for name in NEEDED if name not in dataset]
    if missing:
        raise InvalidImageError(f"a DICOM file without {', '.join(missing)}")


def _check_codestream(dataset: Dataset) -> None:
    """Refuse a compressed frame that would decode to another size than the header's."""
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)  # what the decoder will get
    if frame.startswith(JPEG2000_START):
        size = _jpeg2000_size(frame)
    else:
        size = _jpeg_size(frame)
        check_scans(frame)
    if size != (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel):
        raise InvalidImageError("a DICOM film whose compressed image contradicts its header")


def _jpeg_size(frame: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components in the first frame header of a JPEG (T.81, B.2.2) or JPEG-LS."""
    at = 2
    if frame[:2] != bytes((0xFF, JPEG_START)):
        return None
    while at + 10 <= len(frame) and frame[at] == 0xFF and frame[at + 1] != JPEG_SCAN:
        if frame[at + 1] in JPEG_FRAMES:
            return struct.unpack(">HHB", frame[at + 5 : at + 10])
        at += 1 if frame[at + 1] == 0xFF else 2 + struct.unpack(">H", frame[at + 2 : at + 4])[0]
    return None


def _jpeg2000_size(frame: bytes) -> tuple[int, int, int]:
    """Rows, columns and components in the SIZ segment of a codestream (T.800, A.5.1)."""
    width, height, left, top = struct.unpack(">4I", frame[8:24])
    (components,) = struct.unpack(">H", frame[40:42])
    return height - top, width - left, components


def _clean(value: object) -> str:
    """A header's text, fit for a sentence: no more than a code."""
    return re.sub(r"[^A-Za-z0-9_ ()-]", "", str(value or ""))[:48]
