"""Make films of the size that hospitals use from the samples."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ComputedRadiographyImageStorage, JPEGLossless, generate_uid

from benchmarks.server import ROOT

SAMPLES = sorted((ROOT / "streamlit_app" / "samples").glob("*_[12].png"))  # films that screening knows
GRAIN = 6.0  # gray levels, so that a JPEG has as many bytes as that of a real film


def make_film(width: int, height: int, number: int = 0, grain: float = GRAIN) -> bytes:
    """Make a JPEG of a sample, enlarged to a size in px; ``number`` selects the sample and the grain."""
    pixels = _enlarge(width, height, number, grain).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_dicom_film(width: int, height: int, number: int = 0) -> bytes:
    """Make such a film as DICOM with 12 bits a pixel and lossless JPEG, as radiology stores it."""
    pixels = (_enlarge(width, height, number, GRAIN) * 16).astype(np.uint16)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGLossless
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality, dataset.PhotometricInterpretation = "CR", "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = encapsulate([imagecodecs.ljpeg_encode(pixels, bitspersample=12)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _enlarge(width: int, height: int, number: int, grain: float) -> np.ndarray:
    """A sample with noise, float32 (height, width) of whole gray levels, 0..255."""
    sample = Image.open(SAMPLES[number % len(SAMPLES)]).convert("L")
    enlarged = np.asarray(sample.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    noise = np.random.default_rng(number).normal(0.0, grain, enlarged.shape)
    return np.clip(np.rint(enlarged + noise), 0, 255)
