"""Pictures in color of 16 bits, whose gray levels must not fall to 8 bits on the way."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from cxr import read_image


def read_gray(deep: np.ndarray) -> np.ndarray:
    """What is read of the same film in gray."""
    file = io.BytesIO()
    Image.fromarray(deep).save(file, "PNG")
    file.seek(0)
    return read_image(file)


def in_channels(deep: np.ndarray, channels: int) -> np.ndarray:
    """Gray as gray and alpha, RGB, or RGB and alpha, uint16 (H, W, channels)."""
    samples = np.repeat(deep[..., np.newaxis], channels, axis=2)
    if channels in (2, 4):
        samples[..., -1] = 65535
    return samples


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_colors_of_a_png_keep_their_depth(channels, film):
    """Twelve bits in sixteen: the high bytes alone have sixteen gray levels."""
    deep = film.astype(np.uint16) * 16
    expected = read_gray(deep)
    pixels = read_image(io.BytesIO(imagecodecs.png_encode(in_channels(deep, channels))))
    assert len(np.unique(expected)) > 100
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_deep_transparency_is_laid_over_black(film):
    samples = in_channels(film.astype(np.uint16) * 16, 2)
    samples[:40, :, 1] = 0
    pixels = read_image(io.BytesIO(imagecodecs.png_encode(samples)))
    assert pixels[:40].max() == 0
    assert pixels[40:].max() == 255


@pytest.mark.parametrize("planar", [False, True])
def test_deep_colors_of_a_tiff_keep_their_depth(planar, film):
    deep = film.astype(np.uint16) * 16
    samples = in_channels(deep, 3)
    file = io.BytesIO()
    config = "separate" if planar else "contig"
    data = np.moveaxis(samples, -1, 0) if planar else samples
    tifffile.imwrite(file, data, photometric="rgb", planarconfig=config)
    expected = read_gray(deep)
    assert np.abs(read_image(io.BytesIO(file.getvalue())).astype(int) - expected).max() <= 1


def test_a_filler_beside_deep_colors_is_no_alpha(film):
    """A fourth sample of 0 made the picture black when it was taken for alpha."""
    samples = np.dstack([in_channels(film.astype(np.uint16) * 257, 3), np.zeros_like(film, np.uint16)])
    file = io.BytesIO()
    tifffile.imwrite(file, samples, photometric="rgb", extrasamples=["unspecified"])
    assert np.abs(read_image(io.BytesIO(file.getvalue())).astype(int) - film).max() <= 1


def test_deep_cmyk_is_read(film):
    samples = np.zeros((*film.shape, 4), np.uint16)
    samples[..., 3] = (255 - film.astype(np.uint16)) * 257
    file = io.BytesIO()
    tifffile.imwrite(file, samples, photometric="separated")
    assert np.abs(read_image(io.BytesIO(file.getvalue())).astype(int) - film).max() <= 2
