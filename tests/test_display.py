"""Padding, windows, lookup tables and bits of DICOM films, whole through ``read_image``."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxr import InvalidImageError
from tests.conftest import make_dicom
from tests.test_dicom import DEEP, FILM, SPREAD, read

TWELVE = {"BitsStored": 12, "HighBit": 11}


def frame(film: np.ndarray, value: int, width: int = 20) -> np.ndarray:
    return np.pad(film, ((0, 0), (width, 2 * width)), constant_values=value)


def make_table(entries: np.ndarray, first: int, bits: int) -> Dataset:
    table = Dataset()
    table.LUTDescriptor = [len(entries), first, bits]
    table.LUTData = entries.astype(np.uint16).tobytes()
    table.ModalityLUTType = "US"
    return table


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("interpretation", ["MONOCHROME2", "MONOCHROME1"])
def test_padding_that_frames_a_film_is_cut_off(bits, interpretation):
    tags = {"BitsStored": bits, "HighBit": bits - 1, "PhotometricInterpretation": interpretation}
    plain = read(make_dicom(DEEP, **tags))
    padded = read(make_dicom(frame(DEEP, 65535), PixelPaddingValue=65535, **tags))
    assert np.array_equal(padded, plain)
    assert len(np.unique(padded)) > 150


@pytest.mark.parametrize("padding", [-2000, 63536])
def test_padding_of_signed_films(padding):
    signed = DEEP.astype(np.int16) - 1000
    tags = {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15}
    dataset = make_dicom(frame(signed, -2000), **tags)
    dataset.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)
    assert np.array_equal(read(dataset), read(make_dicom(signed, **tags)))


def test_padding_of_a_range():
    film = frame(DEEP, 0)
    film[:, :20] = np.arange(3)[np.arange(20) % 3]
    dataset = make_dicom(film, **TWELVE, PixelPaddingValue=2, PixelPaddingRangeLimit=0)
    assert np.array_equal(read(dataset), read(make_dicom(DEEP, **TWELVE)))


@pytest.mark.parametrize("interpretation", ["MONOCHROME2", "MONOCHROME1"])
def test_padding_around_a_film_that_is_no_rectangle_is_black(interpretation):
    y, x = np.mgrid[: FILM.shape[0], : FILM.shape[1]]
    inside = np.hypot(y - 80, x - 80) < 80
    film = np.where(inside, DEEP, 65535).astype(np.uint16)
    tags = {"PhotometricInterpretation": interpretation, "BitsStored": 16, "HighBit": 15}
    pixels = read(make_dicom(film, PixelPaddingValue=65535, **tags))
    rows, columns = inside.any(axis=1), inside.any(axis=0)
    inside = inside[rows][:, columns]
    assert pixels.shape == inside.shape
    assert (pixels[~inside] == 0).all()
    assert len(np.unique(pixels[inside])) > 150


@pytest.mark.parametrize(("value", "shown"), [(0, 0), (4095, 255)])
def test_a_saturated_part_of_the_padding_value_stays_as_it_is(value, shown):
    film = DEEP.copy()
    film[70:90, 70:90] = value
    pixels = read(make_dicom(film, **TWELVE, PixelPaddingValue=value))
    outside = np.ones(film.shape, bool)
    outside[70:90, 70:90] = False
    assert pixels.shape == film.shape
    assert (pixels[70:90, 70:90] == shown).all()
    assert np.abs(pixels[outside] - SPREAD[outside]).max() <= 2


def test_a_black_frame_of_the_padding_value():
    film = np.where(FILM == 0, 1, FILM).astype(np.uint8)
    assert np.array_equal(read(make_dicom(frame(film, 0), PixelPaddingValue=0)), film)


def test_a_film_all_of_padding_is_no_padding():
    tags = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}
    assert np.abs(read(make_dicom(DEEP, **TWELVE, **tags)) - SPREAD).max() <= 1


def test_a_film_with_little_but_padding_is_too_small():
    film = np.full((300, 300), 65535, np.uint16)
    film[100:200, 100:200] = DEEP[:100, :100]
    with pytest.raises(InvalidImageError, match="only 100x100 px"):
        read(make_dicom(film, PixelPaddingValue=65535))


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 2000, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": -300},
        {"WindowCenter": 2000, "WindowWidth": 0.5},
        {"WindowCenter": 2000},
        {"WindowWidth": 300},
        {"WindowCenter": 2000, "WindowWidth": None},
        {"WindowCenter": 2000, "WindowWidth": "nan"},
        {"WindowCenter": "inf", "WindowWidth": 300},
        {"WindowCenter": 2000, "WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 2000, "WindowWidth": -1, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 2000, "WindowWidth": 300, "VOILUTFunction": "CUBIC"},
        {"VOILUTSequence": Sequence([])},
        {"VOILUTSequence": Sequence([Dataset()])},
        {"RescaleSlope": 0, "RescaleIntercept": 0},
        {"RescaleSlope": None, "RescaleIntercept": None},
    ],
)
def test_without_a_valid_window_the_range_is_that_of_the_data(tags):
    assert np.abs(read(make_dicom(DEEP, **TWELVE, **tags)) - SPREAD).max() <= 1


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID", "sigmoid "])
def test_narrow_windows_of_other_functions(function):
    tags = {"WindowCenter": 2000, "WindowWidth": 0.5, "VOILUTFunction": function}
    pixels = read(make_dicom(DEEP, **TWELVE, **tags))
    assert (pixels[DEEP > 2001] == 255).all()
    assert (pixels[DEEP < 1999] == 0).all()


def test_a_linear_window_of_one_level():
    pixels = read(make_dicom(DEEP, **TWELVE, WindowCenter=2000, WindowWidth=1))
    assert (pixels == np.where(DEEP >= 2000, 255, 0)).all()


def test_of_several_windows_the_first_is_applied():
    tags = {"WindowCenter": [2000, 100], "WindowWidth": [800, 10]}
    one = read(make_dicom(DEEP, **TWELVE, WindowCenter=2000, WindowWidth=800))
    assert np.array_equal(read(make_dicom(DEEP, **TWELVE, **tags)), one)


def test_a_sigmoid():
    tags = {"WindowCenter": 2000, "WindowWidth": 2000, "VOILUTFunction": "SIGMOID"}
    curve = 1 / (1 + np.exp(-4 * (DEEP - 2000.0) / 2000))
    expected = (curve - curve.min()) / (curve.max() - curve.min()) * 255
    assert np.abs(read(make_dicom(DEEP, **TWELVE, **tags)) - expected).max() <= 1


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
def test_lookup_tables_of_any_depth(sequence, bits):
    entries = np.linspace(2**bits - 1, 0, 3000)
    table = make_table(entries, first=500, bits=bits)
    expected = 255 - np.clip((DEEP - 500.0) / 3000 * 255, 0, 255)
    pixels = read(make_dicom(DEEP, **TWELVE, **{sequence: Sequence([table])}))
    assert np.corrcoef(pixels.ravel(), expected.ravel())[0, 1] > 0.999


def test_a_lookup_table_cut_off():
    table = make_table(np.arange(4096), first=0, bits=12)
    table.LUTData = table.LUTData[:100]
    with pytest.raises(InvalidImageError, match="lookup table is cut off"):
        read(make_dicom(DEEP, **TWELVE, VOILUTSequence=Sequence([table])))


@pytest.mark.parametrize("is_signed", [False, True])
def test_bits_at_the_top_of_a_word(is_signed):
    rng = np.random.default_rng(0)
    tags = {"BitsStored": 12, "PixelRepresentation": int(is_signed)}
    samples = (DEEP ^ 0x800) if is_signed else DEEP
    below = rng.integers(0, 16, DEEP.shape, np.uint16)
    pixels = read(make_dicom(samples << 4 | below, HighBit=15, **tags))
    assert np.abs(pixels - SPREAD).max() <= 1


def test_bits_above_the_samples_are_left_out():
    above = np.random.default_rng(0).integers(0, 16, DEEP.shape, np.uint16) << 12
    assert np.abs(read(make_dicom(DEEP | above, **TWELVE)) - SPREAD).max() <= 1


@pytest.mark.parametrize("high_bit", [3, 40])
def test_a_high_bit_that_cannot_be_is_ignored(high_bit):
    pixels = read(make_dicom(DEEP, BitsStored=12, HighBit=high_bit))
    assert np.abs(pixels - SPREAD).max() <= 1
