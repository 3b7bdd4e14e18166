"""DICOM files that are refused, with which sentence, and what is never said of a patient."""

import io
import itertools
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.misc import warn_and_log
from pydicom.tag import Tag
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from cxr import InvalidImageError, read_image
from tests.conftest import ROOT, make_dicom, save_dicom
from tests.test_dicom import DEEP, FILM, code, compress, encode, read


@pytest.mark.parametrize(
    ("tags", "received"),
    [
        ({"Modality": "CT"}, "modality CT, which is no radiograph"),
        ({"Modality": "MR"}, "modality MR"),
        ({"Modality": "PX"}, "modality PX"),
        ({"Modality": "SR", "PixelData": None}, "modality SR"),
        ({"ViewPosition": "LL"}, "a lateral film (view position LL)"),
        ({"ViewPosition": "L"}, "a lateral film (view position L)"),
        ({"ViewPosition": "LAT"}, "a lateral film (view position LAT)"),
        ({"ViewPosition": "lateral"}, "a lateral film (view position lateral)"),
        ({"ViewPosition": "left Lat"}, "a lateral film (view position left Lat)"),
        ({"ViewPosition": "RLAT"}, "a lateral film (view position RLAT)"),
        ({"ViewPosition": "L_LAT"}, "a lateral film (view position L_LAT)"),
        ({"ViewCodeSequence": [code("right lateral")]}, "a lateral film (view position right lateral)"),
        ({"SamplesPerPixel": 3}, "3 samples per pixel in MONOCHROME2"),
        ({"PhotometricInterpretation": "RGB"}, "1 samples per pixel in RGB"),
        ({"BitsAllocated": 32}, "of 32 allocated, where 8 or 16 are read"),
        ({"BitsStored": 12}, "12 bits stored of 8 allocated"),
        ({"NumberOfFrames": 30}, "30 frames"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "photometric interpretation PALETTE COLOR"),
        ({"Rows": 65535, "Columns": 65535}, "65535x65535 px"),
        ({"Rows": 100}, "only 160x100 px"),
        ({"Rows": 300}, "damaged"),
        ({"BitsAllocated": 7}, "damaged"),
    ],
)
def test_refusals(tags, received):
    dataset = make_dicom(FILM)
    for name, value in tags.items():
        setattr(dataset, name, value)
    with pytest.raises(InvalidImageError) as error:
        read(dataset)
    assert received in str(error.value)
    assert "accepted is a chest film as DICOM radiograph" in str(error.value)


def test_a_file_without_an_image():
    dataset = make_dicom(FILM)
    del dataset.PixelData
    with pytest.raises(InvalidImageError, match="without an image"):
        read(dataset)


def test_a_syntax_that_is_not_decoded():
    with pytest.raises(InvalidImageError, match="transfer syntax MPEG2"):
        read(compress(b"\0" * 64, MPEG2MPML))


def test_deep_color_is_refused():
    dataset = make_dicom(DEEP, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    dataset.PixelData = DEEP.tobytes() * 3
    with pytest.raises(InvalidImageError, match="in color of 16 bits per sample, where 8 are read"):
        read(dataset)


@pytest.mark.parametrize(
    ("image_format", "syntax"), [("JPEG", JPEGBaseline8Bit), ("JPEG2000", JPEG2000Lossless)]
)
def test_a_frame_larger_than_its_header_says_is_not_decoded(image_format, syntax):
    options = {"no_jp2": True} if image_format == "JPEG2000" else {}
    dataset = compress(encode(image_format, **options), syntax, Rows=150, Columns=150)
    with pytest.raises(
        InvalidImageError, match=r"image is .* while its header says 150 x 150 px of 1 sample"
    ):
        read(dataset)


def test_a_header_of_millions_of_elements_is_given_up():
    element = struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 0)
    data = b"\0" * 128 + b"DICM" + element * 2_000_000
    with pytest.raises(InvalidImageError, match="no end"):
        read_image(io.BytesIO(data))


def test_a_deflated_file_is_inflated_to_a_limit():
    """A megabyte could become a gigabyte."""
    dataset = make_dicom(FILM)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = save_dicom(dataset)
    (length,) = struct.unpack("<I", data[140:144])
    pack = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = data[: 144 + length] + pack.compress(bytes(65 * 2**20)) + pack.flush()
    assert len(bomb) < 2**18
    with pytest.raises(InvalidImageError, match="inflated to more than 64 MB"):
        read_image(io.BytesIO(bomb))


@pytest.mark.parametrize("name", ["WindowCenter", "ModalityLUTSequence"])
def test_a_value_of_endless_parts_is_not_parsed(name):
    tag, dataset = Tag(name), make_dicom(FILM)
    del dataset[Tag("PixelData")], dataset.file_meta
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    value = b"1\\" * 200_000 if name == "WindowCenter" else item * 50_000
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, implicit_vr=True, little_endian=True)
    header = struct.pack("<HHI", tag.group, tag.element, len(value))
    with pytest.raises(InvalidImageError, match="a header element of"):
        read_image(io.BytesIO(file.getvalue() + header + value))


def split(frame: bytes, *at: int) -> list[bytes]:
    """The frame cut into fragments of even length."""
    cuts = [0, *at, len(frame)]
    return [frame[a:b] for a, b in itertools.pairwise(cuts)]


def in_fragments(fragments: list[bytes], table: bytes = b"") -> Dataset:
    """Encapsulated by hand, behind an offset table that holds anything."""
    items = [table, *(f + b"\0" * (len(f) % 2) for f in fragments)]
    dataset = compress(b"\0" * 8, JPEGBaseline8Bit)
    dataset.PixelData = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(i)) + i for i in items)
    dataset["PixelData"].is_undefined_length = True
    return dataset


def test_scans_are_counted_in_every_fragment():
    data = encode("JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda")) : -2]
    bomb = data[:-2] + last * 200 + data[-2:]
    assert np.abs(read(in_fragments(split(data, 2000))).astype(int) - FILM).max() < 40
    with pytest.raises(InvalidImageError, match="scans"):
        read(in_fragments(split(bomb, 2000)))


def test_a_decoy_in_the_offset_table_does_not_hide_the_frame():
    file = io.BytesIO()
    Image.fromarray(np.tile(FILM, (2, 2))).save(file, "JPEG")
    with pytest.raises(InvalidImageError, match=r"its header says|damaged"):
        read(in_fragments([file.getvalue()], table=encode("JPEG")))


def test_reading_silences_pydicom_for_nobody_else(caplog):
    read(make_dicom(FILM))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_and_log("heard")
    assert "heard" in caplog.text
    assert [str(warning.message) for warning in caught] == ["heard"]


def test_nothing_of_the_patient_is_told(tmp_path):
    """Neither in messages, nor in logs or warnings, of good files and bad."""
    good = make_dicom(FILM)
    bad = make_dicom(FILM, Rows=300, Modality="CR")
    bad.PatientName = bad.PatientID = "Doe^Jane " * 7
    paths = []
    for name, dataset in {"good": good, "bad": bad, "ct": make_dicom(FILM, Modality="CT")}.items():
        paths.append(tmp_path / f"{name}.dcm")
        data = save_dicom(dataset)
        data = data.replace(b"PN", b"DA") if name == "bad" else data  # a name where a date should be
        paths[-1].write_bytes(data)
    command = [
        sys.executable,
        "-W",
        "always",
        "-m",
        "cxr",
        "predict",
        *map(str, paths),
        "--format",
        "json",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout.count("\n") == 3
    for secret in ("Doe", "Jane", "4711"):
        assert secret not in result.stdout + result.stderr
