"""Films of about 50 megapixels, or of nearly 64 MB, that are as a hospital may send them, by name.

The size is a side in px, a multiple of 128. They must be read.
"""

from __future__ import annotations

import importlib.util
import struct
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from tests.conftest import make_dicom, save_dicom
from tests.hostile import build
from tests.hostile.build import Case, dicom_of, picture

SIDE = 7040  # px; 49.6 megapixels
GRAIN = 32  # of lossy films, which would smooth a finer one away
SIDE_2_BYTES = 5632  # px; 63 MB of 16 bits, uncompressed
SIDE_3_BYTES = 4608  # px; 64 MB of color, uncompressed
DEEP = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}


def gradient(side: int, levels: int = 256, grain: int = 4) -> np.ndarray:
    """Brighter from corner to corner, with noise of ``grain`` of 256 levels.

    Returns:
        uint8 (side, side), or uint16 for more than 256 levels.
    """
    dtype = np.uint8 if levels <= 256 else np.uint16
    noise = levels * grain // 256
    ramp = np.linspace(0, (levels - noise) / 2 - 1, side).astype(dtype)
    pixels = np.random.default_rng(0).integers(0, noise, (side, side), dtype)
    pixels += ramp
    pixels += ramp[:, np.newaxis]
    return pixels


def gray(side: int, grain: int = 4) -> Image.Image:
    return Image.fromarray(gradient(side, grain=grain))


def deep(side: int) -> Image.Image:
    return Image.fromarray(gradient(side, 4096))


def color(side: int, grain: int = 4) -> Image.Image:
    film = gray(side, grain)
    return Image.merge("RGB", (film, film, film))


def jpeg(side: int) -> bytes:
    return picture("JPEG", gray(side, GRAIN), quality=90)


def jpeg_progressive(side: int) -> bytes:
    return picture("JPEG", gray(side, GRAIN), quality=90, progressive=True)


def jpeg_color(side: int) -> bytes:
    return picture("JPEG", color(side, GRAIN), quality=90)


def jpeg_color_progressive(side: int) -> bytes:
    return picture("JPEG", color(side, GRAIN), quality=90, progressive=True)


def png(side: int) -> bytes:
    return picture("PNG", gray(side), compress_level=1)


def png_16(side: int) -> bytes:
    return picture("PNG", deep(side), compress_level=1)


def png_color(side: int) -> bytes:
    return picture("PNG", color(side), compress_level=1)


def bmp(side: int) -> bytes:
    return picture("BMP", gray(side))


def bmp_color(side: int) -> bytes:
    return picture("BMP", color(side))


def webp(side: int) -> bytes:
    return picture("WEBP", gray(side, GRAIN), quality=80, method=0)


def tiff(side: int) -> bytes:
    return picture("TIFF", gray(side))


def tiff_16(side: int) -> bytes:
    return picture("TIFF", deep(side))


def tiff_lzw(side: int) -> bytes:
    return picture("TIFF", gray(side), compression="tiff_lzw")


def tiff_16_deflate(side: int) -> bytes:
    return picture("TIFF", deep(side), compression="tiff_adobe_deflate")


def tiff_color_jpeg(side: int) -> bytes:
    return picture("TIFF", color(side, GRAIN), compression="jpeg")


def tiff_16_tiled(side: int) -> bytes:
    """Uncompressed, in tiles of 128 px."""
    tile = 128
    across = side // tile
    pixels = gradient(side, 4096).reshape(across, tile, across, tile).swapaxes(1, 2)
    data = pixels.tobytes()
    where = range(8, 8 + len(data), 2 * tile * tile)
    tiles = [build.long(322, tile), build.long(323, tile), build.long(324, *where)]
    tiles.append(build.long(325, *[2 * tile * tile] * len(where)))
    return build.tiff([*build.gray(side, side, bits=16), *tiles], data)


def dicom(side: int) -> bytes:
    return save_dicom(make_dicom(gradient(side)))


def dicom_16(side: int) -> bytes:
    return save_dicom(_deep_dicom(side))


def dicom_windowed(side: int) -> bytes:
    """With a rescale and a window."""
    tags = {"WindowCenter": 1000, "WindowWidth": 1500, "RescaleSlope": "0.5", "RescaleIntercept": "-7"}
    return save_dicom(_deep_dicom(side, **tags))


def dicom_jpeg(side: int) -> bytes:
    return dicom_of(jpeg(side), JPEGBaseline8Bit, side, side)


def dicom_jpeg2000(side: int) -> bytes:
    frame = picture("JPEG2000", deep(side), no_jp2=True)
    return dicom_of(frame, JPEG2000Lossless, side, side, **DEEP | {"BitsStored": 16, "HighBit": 15})


def dicom_jpeg2000_lossy(side: int) -> bytes:
    frame = picture("JPEG2000", gray(side), no_jp2=True, irreversible=True, quality_layers=[20])
    return dicom_of(frame, JPEG2000, side, side)


def dicom_rle(side: int) -> bytes:
    """Literal runs of 128 pixels."""
    runs = gradient(side).reshape(-1, 128)
    runs = np.concatenate([np.full((len(runs), 1), 127, np.uint8), runs], axis=1)
    return dicom_of(struct.pack("<16I", 1, 64, *[0] * 14) + runs.tobytes(), RLELossless, side, side)


def dicom_jpeg_lossless(side: int) -> bytes:
    return _recode(_deep_dicom(side), "JPEGLosslessProcess14_1")


def dicom_jpegls(side: int) -> bytes:
    return _recode(_deep_dicom(side), "JPEGLSLossless")


def _deep_dicom(side: int, **tags) -> Dataset:
    return make_dicom(gradient(side, 4096), BitsStored=12, HighBit=11, **tags)


def _recode(dataset: Dataset, syntax: str) -> bytes:
    """A film in a transfer syntax, by GDCM's name, that GDCM alone can write."""
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "film.dcm")
        dataset.save_as(path, enforce_file_format=True)
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(path)
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(path)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return Path(path).read_bytes()


HONEST = {
    f"honest_{write.__name__}": Case(write, 256, 2048, side)
    for write, side in (
        (jpeg, SIDE),
        (jpeg_progressive, SIDE),
        (jpeg_color, SIDE),
        (jpeg_color_progressive, SIDE),
        (png, SIDE),
        (png_16, SIDE),
        (png_color, SIDE),
        (bmp, SIDE),
        (bmp_color, SIDE_3_BYTES),
        (webp, SIDE),
        (tiff, SIDE),
        (tiff_16, SIDE_2_BYTES),
        (tiff_lzw, SIDE),
        (tiff_16_deflate, SIDE),
        (tiff_color_jpeg, SIDE),
        (tiff_16_tiled, SIDE_2_BYTES),
        (dicom, SIDE),
        (dicom_16, SIDE_2_BYTES),
        (dicom_windowed, SIDE_2_BYTES),
        (dicom_jpeg, SIDE),
        (dicom_jpeg2000, SIDE),
        (dicom_jpeg2000_lossy, SIDE),
        (dicom_rle, SIDE),
    )
}
if importlib.util.find_spec("gdcm"):
    HONEST["honest_dicom_jpeg_lossless"] = Case(dicom_jpeg_lossless, 256, 2048, SIDE)
    HONEST["honest_dicom_jpegls"] = Case(dicom_jpegls, 256, 2048, SIDE)
