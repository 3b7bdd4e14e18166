"""DICOM radiographs through ``read_film``: which pixels come out."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from cxr import read_film, read_image
from tests.conftest import draw_film, make_dicom, save_dicom

FILM = draw_film(1, pneumonia=True, size=160)
DEEP = FILM.astype(np.uint16) * 16
SPREAD = np.rint((FILM.astype(float) - FILM.min()) / (int(FILM.max()) - FILM.min()) * 255)


def read(dataset: Dataset) -> np.ndarray:
    return read_image(io.BytesIO(save_dicom(dataset)))


def code(meaning: str) -> Dataset:
    item = Dataset()
    item.CodeMeaning = meaning
    return item


def compress(frame: bytes, syntax: str, **tags) -> Dataset:
    dataset = make_dicom(FILM, **tags)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def encode(image_format: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(FILM).save(file, image_format, **options)
    return file.getvalue()


def test_eight_bits_are_read_as_they_are():
    assert np.array_equal(read(make_dicom(FILM)), FILM)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_gray_is_scaled(bits):
    deep = np.rint(FILM / 255.0 * (2**bits - 1)).astype(np.uint16)
    assert np.abs(read(make_dicom(deep, BitsStored=bits, HighBit=bits - 1)) - SPREAD).max() <= 1


def test_signed_values_and_rescale():
    signed = (FILM.astype(np.int16) - 128) * 8
    dataset = make_dicom(signed, PixelRepresentation=1, RescaleSlope="0.5", RescaleIntercept="-7")
    assert np.abs(read(dataset) - SPREAD).max() <= 1


def test_monochrome1_is_inverted():
    assert np.array_equal(read(make_dicom(255 - FILM, PhotometricInterpretation="MONOCHROME1")), FILM)


def test_the_window_is_applied():
    pixels = read(make_dicom(DEEP, BitsStored=12, HighBit=11, WindowCenter=2000, WindowWidth=800))
    inside = (DEEP > 1650) & (DEEP < 2350)
    assert pixels[DEEP < 1600].max() <= 1
    assert pixels[DEEP > 2400].min() >= 254
    assert np.corrcoef(pixels[inside], DEEP[inside])[0, 1] > 0.999


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
def test_lookup_tables_are_applied(sequence):
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table.LUTData = (255 - np.arange(256)).astype(np.uint16).tobytes()
    table.ModalityLUTType = "OD"
    pixels = read(make_dicom(FILM, **{sequence: Sequence([table])}))
    assert np.abs(pixels.astype(int) - (255 - SPREAD)).max() <= 1


def test_big_endian():
    dataset = make_dicom(DEEP, BitsStored=12, HighBit=11)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = DEEP.astype(">u2").tobytes()
    assert np.abs(read(dataset) - SPREAD).max() <= 1


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, None])
def test_without_preamble_and_meta_header(syntax):
    dataset = make_dicom(FILM)
    if syntax:
        dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    whole = file.getvalue()
    (length,) = struct.unpack("<I", whole[140:144])
    bare = whole[144 + length :]
    assert struct.unpack("<HH", bare[:4]) == (0x0008, 0x0016)
    assert np.array_equal(read_image(io.BytesIO(bare)), FILM)


def test_rle():
    dataset = make_dicom(FILM)
    dataset.compress(RLELossless)
    assert np.array_equal(read(dataset), FILM)


def test_jpeg_baseline():
    pixels = read(compress(encode("JPEG", quality=98), JPEGBaseline8Bit))
    assert np.abs(pixels.astype(int) - FILM).max() <= 8


def test_jpeg_2000():
    frame = encode("JPEG2000", irreversible=False, no_jp2=True)
    assert np.array_equal(read(compress(frame, JPEG2000Lossless)), FILM)


@pytest.mark.parametrize("position", ["PA", "AP", "LORDOTIC", ""])
def test_frontal_views_are_read(position):
    meaning = Sequence([code("postero-anterior")])
    dataset = make_dicom(FILM, ViewPosition=position, ViewCodeSequence=meaning)
    assert np.array_equal(read(dataset), FILM)


def test_a_deflated_file():
    dataset = make_dicom(DEEP, BitsStored=12, HighBit=11)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert np.abs(read(dataset) - SPREAD).max() <= 1


def test_the_name_of_a_syntax_elsewhere_in_the_file_changes_nothing():
    film = FILM.copy()
    name = np.frombuffer(DeflatedExplicitVRLittleEndian.encode(), np.uint8)
    film[0, : len(name)] = name
    assert np.array_equal(read(make_dicom(film)), film)


def test_color():
    rgb = np.stack([FILM, 255 - FILM, FILM // 2], axis=-1)
    luma = np.asarray(Image.fromarray(rgb).convert("L"))
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    assert np.array_equal(read(make_dicom(FILM, **tags, PixelData=rgb.tobytes())), luma)
    tags["PlanarConfiguration"] = 1
    planes = np.moveaxis(rgb, -1, 0)
    assert np.array_equal(read(make_dicom(FILM, **tags, PixelData=planes.tobytes())), luma)


@pytest.mark.parametrize("interpretation", ["YBR_FULL", "YBR_FULL_422"])
def test_color_whose_luma_is_stored(interpretation):
    if interpretation == "YBR_FULL":
        stored = np.stack([FILM, FILM // 3, FILM // 2], axis=-1)
    else:  # Y, Y, Cb, Cr
        stored = np.concatenate([FILM.reshape(-1, 2), np.full((FILM.size // 2, 2), 90, np.uint8)], axis=1)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": interpretation, "PlanarConfiguration": 0}
    assert np.array_equal(read(make_dicom(FILM, **tags, PixelData=stored.tobytes())), FILM)


def test_burned_in_text_is_told():
    notes = read_film(io.BytesIO(save_dicom(make_dicom(FILM, BurnedInAnnotation="YES")))).notes
    assert len(notes) == 1
    assert "burned into the picture" in notes[0]
