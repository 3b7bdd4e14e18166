"""Compressed DICOM films, whole through ``read_image``, with GDCM as the reference."""

import io
import itertools
import struct
from pathlib import Path

import gdcm
import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import (
    HTJ2K,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxr import InvalidImageError, read_image
from tests.conftest import draw_film, make_dicom
from tests.test_dicom import DEEP, FILM, SPREAD, read

RGB = np.stack([FILM, 255 - FILM, FILM // 2], axis=-1)
LUMA = RGB @ [0.299, 0.587, 0.114]


def recode(dataset: Dataset, syntax: str, folder: Path) -> bytes:
    """The file in another syntax, by GDCM."""
    path, out = str(folder / "raw.dcm"), str(folder / "coded.dcm")
    dataset.save_as(path, enforce_file_format=True)
    reader = gdcm.ImageReader()
    reader.SetFileName(path)
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(out)
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return (folder / "coded.dcm").read_bytes()


def compress(frame: bytes, syntax: str, film: np.ndarray = FILM, **tags) -> Dataset:
    dataset = make_dicom(film, **tags)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def build_jpeg2000(
    size: int, tile: int, layers: int = 1, block: int = 4, precincts: bytes = b"", in_coc: bool = False
) -> bytes:
    """A valid codestream of 16-bit samples without any data, of one resolution."""

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">HH", marker, len(body) + 2) + body

    parts = (-(-size // tile)) ** 2
    style = bytes([0, block, block, 0, 1])
    cod = bytes([bool(precincts) and not in_coc, 0]) + struct.pack(">HB", layers, 0) + style
    return (
        b"\xff\x4f"
        + segment(0xFF51, struct.pack(">H8IH", 0, size, size, 0, 0, tile, tile, 0, 0, 1) + b"\x0f\1\1")
        + segment(0xFF52, cod if in_coc else cod + precincts)
        + (segment(0xFF53, b"\0\1" + style + precincts) if in_coc else b"")
        + segment(0xFF5C, b"\x40\x80")
        + b"".join(struct.pack(">HHHIBBH", 0xFF90, 10, i, 14, 0, 1, 0xFF93) for i in range(parts))
        + b"\xff\xd9"
    )


@pytest.mark.parametrize(("bits", "is_signed"), itertools.product((8, 10, 12, 16), (False, True)))
@pytest.mark.parametrize(
    "syntax",
    [
        "JPEGLosslessProcess14",
        "JPEGLosslessProcess14_1",
        "JPEGLSLossless",
        "JPEGLSNearLossless",
        "JPEG2000Lossless",
        "JPEG2000",
        "RLELossless",
    ],
)
def test_pixels_are_those_of_gdcm(syntax, bits, is_signed, tmp_path):
    film = FILM.astype(np.int32) * 2**bits // 256 - is_signed * 2 ** (bits - 1)
    film = film.astype(f"{'iu'[not is_signed]}{1 if bits == 8 else 2}")
    dataset = make_dicom(film, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=int(is_signed))
    data = recode(dataset, syntax, tmp_path)
    plugin = "pydicom" if syntax == "RLELossless" else "gdcm"
    expected = pixel_array(pydicom.dcmread(io.BytesIO(data)), decoding_plugin=plugin)
    same = make_dicom(expected, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=int(is_signed))
    assert np.array_equal(read_image(io.BytesIO(data)), read(same))
    assert np.abs(expected.astype(int) - film).max() <= 2 ** (bits - 6)


@pytest.mark.parametrize(
    "syntax",
    [
        "JPEGBaselineProcess1",
        "JPEGLosslessProcess14",
        "JPEGLosslessProcess14_1",
        "JPEGLSLossless",
        "JPEG2000Lossless",
        "RLELossless",
    ],
)
def test_color(syntax, tmp_path):
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    data = recode(make_dicom(FILM, **tags, PixelData=RGB.tobytes()), syntax, tmp_path)
    pixels = read_image(io.BytesIO(data))
    assert np.abs(pixels - LUMA).mean() < (4 if syntax == "JPEGBaselineProcess1" else 0.6)


def test_color_that_its_jpeg_names():
    frame = imagecodecs.jpeg8_encode(RGB, level=95)  # with a JFIF header: YCbCr
    tags = {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    for name in ("RGB", "YBR_FULL_422"):
        pixels = read(compress(frame, JPEGBaseline8Bit, PhotometricInterpretation=name, **tags))
        assert np.abs(pixels - LUMA).mean() < 4


def test_jpeg_of_12_bits():
    frame = imagecodecs.jpeg8_encode(DEEP, level=98, bitspersample=12)
    pixels = read(compress(frame, JPEGExtended12Bit, DEEP, BitsStored=12, HighBit=11))
    assert np.abs(pixels - SPREAD).mean() < 4


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K])
def test_high_throughput_jpeg_2000(syntax):
    frame = imagecodecs.htj2k_encode(DEEP, reversible=True)
    pixels = read(compress(frame, syntax, DEEP, BitsStored=16, HighBit=15))
    assert np.abs(pixels - SPREAD).max() <= 1


def test_a_header_of_a_higher_bit_than_the_codestream_has():
    frame = imagecodecs.jpeg8_encode(DEEP, lossless=True, predictor=1, bitspersample=12)
    pixels = read(compress(frame, JPEGLosslessSV1, DEEP, BitsStored=12, HighBit=15))
    assert np.abs(pixels - SPREAD).max() <= 1


def test_a_jpeg_of_more_bits_than_it_says():
    film = DEEP * 16
    frame = imagecodecs.jpeg8_encode(film, lossless=True, predictor=1, bitspersample=12)
    assert frame[frame.index(b"\xff\xc3") + 4] == 12
    assert np.abs(read(compress(frame, JPEGLosslessSV1, film)) - SPREAD).max() <= 1


def test_an_unsigned_film_in_a_signed_jpeg_2000():
    signed = (DEEP.astype(np.int16) ^ 0x800) - 0x800
    frame = imagecodecs.jpeg2k_encode(
        signed, codecformat="j2k", reversible=True, bitspersample=12, level=0
    )
    dataset = compress(frame, JPEG2000Lossless, DEEP, BitsStored=12, HighBit=11)
    assert np.abs(read(dataset) - SPREAD).max() <= 1


def test_a_signed_film_in_an_unsigned_jpeg_2000():
    frame = imagecodecs.jpeg2k_encode(DEEP, codecformat="j2k", reversible=True, bitspersample=12, level=0)
    tags = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}
    signed = (DEEP.astype(np.int16) ^ 0x800) - 0x800
    expected = read(make_dicom(signed, **tags))
    assert np.array_equal(read(compress(frame, JPEG2000Lossless, DEEP, **tags)), expected)


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"size": 2000, "tile": 2000, "precincts": b"\0"}, "4,000,000 code-blocks"),
        ({"size": 2000, "tile": 2000, "precincts": b"\0", "in_coc": True}, "4,000,000 code-blocks"),
        ({"size": 4000, "tile": 4000, "block": 0}, "1,000,000 code-blocks"),
        ({"size": 2000, "tile": 25}, "6,400 tiles"),
        ({"size": 2000, "tile": 50, "layers": 65535}, "104,856,000 packets"),
    ],
)
def test_a_jpeg_2000_of_too_many_parts_is_not_decoded(options, received):
    size = options["size"]
    dataset = compress(build_jpeg2000(**options), JPEG2000Lossless, DEEP, Rows=size, Columns=size)
    with pytest.raises(InvalidImageError, match=received):
        read(dataset)


def test_a_jpeg_2000_of_a_style_of_its_own_in_a_tile_is_counted():
    frame = build_jpeg2000(2000, 2000)
    at = frame.index(b"\xff\x93")
    style = b"\xff\x52" + struct.pack(">HBBHB", 13, 1, 0, 1, 0) + bytes([0, 4, 4, 0, 1, 0])
    length = struct.pack(">I", 14 + len(style))
    frame = frame[: at - 6] + length + frame[at - 2 : at] + style + frame[at:]
    dataset = compress(frame, JPEG2000Lossless, DEEP, Rows=2000, Columns=2000)
    with pytest.raises(InvalidImageError, match="4,000,000 code-blocks"):
        read(dataset)


@pytest.mark.parametrize("tile", [0, 128])
@pytest.mark.parametrize("layers", [1, 20])
def test_an_honest_jpeg_2000_of_tiles_and_layers_is_read(tile, layers):
    film = draw_film(1, pneumonia=True, size=1200)
    file = io.BytesIO()
    options = {"quality_layers": list(range(layers, 0, -1)), "quality_mode": "rates"}
    Image.fromarray(film).save(
        file,
        "JPEG2000",
        no_jp2=True,
        codeblock_size=(32, 32),
        tile_size=(tile, tile) if tile else None,
        **options,
    )
    pixels = read(compress(file.getvalue(), JPEG2000Lossless, film))
    assert np.abs(pixels.astype(int) - film).mean() < 2


def test_rle_of_more_pixels_than_the_film_has_is_not_expanded():
    """Two bytes can become 128, and a segment may be used for several planes."""
    segment = b"\x81\xff" * 500_000
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    with pytest.raises(InvalidImageError, match="damaged"):
        read(compress(header + segment, RLELossless))


@pytest.mark.parametrize("planes", [0, 2, 15, 2**31])
def test_rle_of_another_number_of_planes_contradicts_its_header(planes):
    frame = struct.pack("<16I", planes, *[64] * 15) + b"\x81\xff" * 500
    with pytest.raises(InvalidImageError, match=rf"{planes} planes of RLE, while its header needs 1;"):
        read(compress(frame, RLELossless))


def test_rle_cut_off_is_damaged():
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\xff" * 100
    with pytest.raises(InvalidImageError, match="damaged"):
        read(compress(frame, RLELossless))


def test_fragments_without_end_are_not_joined():
    dataset = compress(b"\0\0", RLELossless)
    dataset.PixelData = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 25_000
    dataset["PixelData"].is_undefined_length = False
    with pytest.raises(InvalidImageError, match="more than 20,000 fragments"):
        read(dataset)


@pytest.mark.parametrize("coding", ["jpegls", "jpeg8", "jpeg2k", "htj2k"])
def test_damaged_frames_give_a_film_or_one_error(coding):
    options = {"jpeg8": {"lossless": True}, "jpeg2k": {"codecformat": "j2k"}}.get(coding, {})
    frame = getattr(imagecodecs, f"{coding}_encode")(DEEP, **options)
    syntaxes = {"jpegls": JPEGLSLossless, "jpeg8": JPEGLosslessSV1, "htj2k": HTJ2KLossless}
    for seed in range(8):
        damaged = bytearray(frame)
        for at in np.random.default_rng(seed).integers(20, len(frame), 20):
            damaged[at] ^= 0x5A
        try:
            pixels = read(compress(bytes(damaged), syntaxes.get(coding, JPEG2000Lossless), DEEP))
        except InvalidImageError as error:
            assert "accepted is" in str(error)
        else:
            assert pixels.dtype == np.uint8
            assert pixels.shape == FILM.shape
