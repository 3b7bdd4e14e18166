import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from cxr import InvalidImageError, preprocess, read_film, read_image
from cxr.errors import MAX_BYTES, MAX_PIXELS
from tests.conftest import ROOT, draw_film


def encode(image: Image.Image, **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, **options)
    file.seek(0)
    return file


def gray(film: np.ndarray) -> Image.Image:
    return Image.fromarray(film)


def with_alpha(film: np.ndarray, alpha: int) -> Image.Image:
    image = gray(film).convert("LA")
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize(
    ("make", "options", "tolerance"),
    [
        (gray, {"format": "PNG"}, 0),
        (gray, {"format": "BMP"}, 0),
        (gray, {"format": "TIFF"}, 0),
        (gray, {"format": "TIFF", "compression": "tiff_lzw"}, 0),
        (gray, {"format": "WEBP", "lossless": True}, 1),
        (gray, {"format": "JPEG", "quality": 98}, 8),
        (lambda f: gray(f).convert("RGB"), {"format": "PNG"}, 0),
        (lambda f: gray(f).convert("P"), {"format": "PNG"}, 1),
        (lambda f: gray(f).convert("CMYK"), {"format": "TIFF"}, 2),
        (lambda f: gray(f).convert("CMYK"), {"format": "JPEG", "quality": 98}, 10),
        (lambda f: with_alpha(f, 255), {"format": "PNG"}, 0),
        (lambda f: with_alpha(f, 255).convert("RGBA"), {"format": "PNG"}, 0),
    ],
)
def test_reads_every_mode_and_format(film, make, options, tolerance):
    pixels = read_image(encode(make(film), **options))
    assert pixels.dtype == np.uint8
    assert pixels.shape == film.shape
    assert np.abs(pixels.astype(int) - film).max() <= tolerance


def test_bilevel_becomes_black_and_white(film):
    pixels = read_image(encode(gray(film).convert("1"), format="PNG"))
    assert set(np.unique(pixels)) == {0, 255}


def test_transparency_is_laid_over_black(film):
    image = gray(film).convert("RGBA")
    image.paste((255, 255, 255, 0), (0, 0, 20, 20))
    assert read_image(encode(image, format="PNG"))[:20, :20].max() == 0


def test_palette_transparency_is_black(film):
    image = gray(film).quantize(16)
    clear = np.asarray(image) == 3
    pixels = read_image(encode(image, format="PNG", transparency=3))
    assert clear.any()
    assert pixels[clear].max() == 0
    assert pixels[~clear].max() > 100


@pytest.mark.parametrize("full_scale", [1023, 4095, 65535])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_deep_gray_is_scaled_not_clipped(film, full_scale, file_format):
    spread = (film.astype(float) - film.min()) / (int(film.max()) - film.min())
    deep = np.rint(spread * full_scale).astype(np.uint16)
    pixels = read_image(encode(Image.fromarray(deep), format=file_format))
    assert np.abs(pixels - spread * 255).max() <= 1
    assert len(np.unique(pixels)) > 100


def test_a_burned_in_marker_leaves_gray_levels_to_the_film(film):
    deep = film.astype(np.uint16) * 8
    deep[0, :8] = 65535
    pixels = read_image(encode(Image.fromarray(deep), format="PNG"))
    assert len(np.unique(pixels)) > 100
    assert (pixels[0, :8] == 255).all()


def test_deep_tiff_with_white_as_zero_is_not_inverted(film):
    white_is_zero = Image.fromarray(65535 - film.astype(np.uint16) * 257)
    pixels = read_image(encode(white_is_zero, format="TIFF", tiffinfo={262: 0}))
    assert np.corrcoef(pixels.ravel(), film.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    "image",
    [
        Image.new("I;16", (7000, 7000), 9),
        Image.new("F", (7000, 7000), 0.5),
        Image.new("RGBA", (7000, 7000), (9, 9, 9, 200)),
    ],
    ids=lambda image: image.mode,
)
def test_a_small_file_of_many_pixels_stays_within_memory(image, tmp_path):
    """49 megapixels compress to next to nothing; decoding them must not take gigabytes."""
    image.putpixel((0, 0), image.getpixel((1, 1)) if image.mode == "RGBA" else 1000)
    path = tmp_path / "large.tiff"
    image.save(path, compression="tiff_adobe_deflate")
    script = (
        "import resource, sys; from cxr import read_image, InvalidImageError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_image(sys.argv[1])\n"
        "except InvalidImageError: pass\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    command = [sys.executable, "-c", script, str(path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert path.stat().st_size < 1_000_000
    assert int(result.stdout) < 700


def test_big_endian_and_float_tiff(film):
    big = (film.astype(np.uint16) * 16).astype(">u2")
    image = Image.frombytes("I;16B", film.shape[::-1], big.tobytes())
    expected = np.rint((film - film.min()) / (int(film.max()) - film.min()) * 255)
    assert np.abs(read_image(encode(image, format="TIFF")) - expected).max() <= 1
    floats = film / np.float32(255)
    floats[0, 0] = np.nan
    pixels = read_image(encode(Image.fromarray(floats), format="TIFF"))
    assert np.abs(pixels - expected)[1:].max() <= 1


def test_exif_orientation_is_applied():
    film = draw_film(0, pneumonia=True, size=192)
    tall = gray(film[:, :144])
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    pixels = read_image(encode(tall, format="JPEG", quality=98, exif=exif))
    assert pixels.shape == (144, 192)
    assert np.abs(pixels.astype(int) - np.rot90(film[:, :144], -1)).max() <= 8


def test_first_frame_of_an_animation(film):
    frames = {"save_all": True, "append_images": [gray(255 - film)], "lossless": True}
    read = read_film(encode(gray(film), format="WEBP", **frames))
    assert np.abs(read.pixels.astype(int) - film).max() <= 1
    assert read.notes == ("The file holds several pictures; only the first is read.",)
    assert read_film(encode(gray(film), format="PNG")).notes == ()


def test_path_and_file_object_agree(film, tmp_path):
    path = tmp_path / "film.png"
    gray(film).save(path)
    with path.open("rb") as file:
        assert np.array_equal(read_image(file), read_image(str(path)))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


@pytest.mark.parametrize(
    ("data", "received"),
    [
        (b"", "an empty file"),
        (b"hello, this is no image", "a file of 23 bytes"),
        (b"%PDF-1.7 and so on", "a PDF document"),
        (b"PK\x03\x04 and so on", "a ZIP archive"),
        (b"\0" * 128 + b"DICM and so on", "a DICOM file without an image"),
        (png_header(20_000, 20_000), "an image of far more than 50 megapixels"),
        (png_header(8_000, 8_000), "an image of 8000x8000 px (64 megapixels)"),
        (png_header(127, 500), "only 127x500 px"),
        (png_header(130, 521), "a strip of 130x521 px"),
        (png_header(130, 130), "a damaged or unsupported image"),
        (encode(gray(np.full((199, 199), 7, np.uint8)), format="PNG").read(), "a blank image"),
        (b"\xff" * (MAX_BYTES + 1), "a file of more than 64 MB"),
    ],
)
def test_refuses_with_what_came_and_what_is_accepted(data, received):
    with pytest.raises(InvalidImageError) as error:
        read_image(io.BytesIO(data))
    assert received in str(error.value)
    assert "accepted is a chest film as DICOM radiograph, JPEG, PNG, BMP, TIFF or WebP" in str(
        error.value
    )


def test_pixel_limit_is_near_fifty_megapixels():
    assert 40_000_000 <= MAX_PIXELS <= 60_000_000


def test_formats_outside_the_list_are_refused(film):
    with pytest.raises(InvalidImageError):
        read_image(encode(gray(film), format="GIF"))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_truncated_files_fail(film, file_format, share):
    data = encode(gray(film), format=file_format).read()
    with pytest.raises(InvalidImageError):
        read_image(io.BytesIO(data[: int(len(data) * share)]))


def test_a_jpeg_of_endless_scans_is_refused():
    """Each scan is a pass over all pixels: 64 MB of them would take most of an hour."""
    data = encode(gray(draw_film(0, pneumonia=True, size=256)), format="JPEG", progressive=True).read()
    last = data[data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda")) : -2]
    assert read_image(io.BytesIO(data[:-2] + last * 5 + data[-2:])).shape == (256, 256)
    with pytest.raises(InvalidImageError, match="scans"):
        read_image(io.BytesIO(data[:-2] + last * 200 + data[-2:]))


def test_a_phones_photo_with_its_video_behind_it_is_read(film):
    """Any video of some megabytes holds the two bytes that mark a scan a hundred times."""
    video = np.random.default_rng(0).bytes(16 * 2**20)
    assert video.count(b"\xff\xda") > 100
    data = encode(gray(film), format="JPEG").read()
    np.testing.assert_array_equal(read_image(io.BytesIO(data + video)), read_image(io.BytesIO(data)))


def test_a_tiff_of_many_jpeg_strips_is_read():
    film = draw_film(0, pneumonia=True, size=2200)
    file = encode(gray(film), format="TIFF", compression="jpeg", tiffinfo={278: 16})
    assert file.getvalue().count(b"\xff\xda") > 100
    assert read_image(file).shape == film.shape


def test_a_damaged_second_page_does_not_cost_the_first(film):
    pages = {"save_all": True, "append_images": [gray(film)]}
    data = bytearray(encode(gray(film), format="TIFF", **pages).read())
    first = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[first : first + 2])[0]
    link = first + 2 + 12 * entries
    data[link : link + 4] = (9).to_bytes(4, "little")
    read = read_film(io.BytesIO(bytes(data)))
    assert np.array_equal(read.pixels, film)
    assert len(read.notes) == 1


def test_missing_path_and_folder(tmp_path):
    for path in (tmp_path / "none.png", tmp_path, "null\0character.png"):
        with pytest.raises(InvalidImageError, match="cannot be read"):
            read_image(path)


def test_preprocess_uses_the_whole_range_and_frame():
    low_contrast = (draw_film(1, pneumonia=False, size=300) // 8 + 90)[:, :240]
    image = preprocess(low_contrast, 160)
    assert image.shape == (160, 160, 1)
    assert image.dtype == np.uint8
    assert image.min() == 0
    assert image.max() == 255
    assert 0.005 < np.mean(image == 0) < 0.2


def test_preprocess_keeps_a_film_that_is_already_prepared(film):
    once = preprocess(film, 96)
    twice = preprocess(once[..., 0], 96)
    assert np.abs(twice.astype(int) - once).max() <= 1


def test_preprocess_is_antialiased():
    stripes = np.tile(np.array([0, 0, 255], np.uint8), (900, 300))
    stripes[:300], stripes[300:600] = 0, 255  # what the stretch spans
    without = np.asarray(Image.fromarray(stripes).resize((128, 128), Image.Resampling.NEAREST))
    assert without[90:].std() > 100
    assert preprocess(stripes, 128)[90:].std() < 12


def test_preprocess_does_not_depend_on_resolution():
    small = draw_film(2, pneumonia=True, size=224)
    large = np.asarray(gray(small).resize((1792, 1792), Image.Resampling.BICUBIC))
    difference = preprocess(small, 160).astype(int) - preprocess(large, 160)
    assert np.abs(difference).mean() < 3


def test_preprocess_of_a_constant_film_is_finite():
    assert preprocess(np.full((64, 64), 9, np.uint8), 32).max() == 0


def test_preprocess_refuses_other_arrays():
    with pytest.raises(ValueError, match=r"uint8 \(H, W\)"):
        preprocess(np.zeros((8, 8, 3), np.uint8), 32)
    with pytest.raises(ValueError, match=r"uint8 \(H, W\)"):
        preprocess(np.zeros((8, 8), np.float32), 32)
