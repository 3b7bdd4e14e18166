"""Damaged files: whatever the bytes, ``read_film`` gives a film or raises ``InvalidImageError``.

``CXR_FUZZ_EXAMPLES`` sets how many files of each kind are tried; a thorough run takes 20,000.
"""

import io
import os
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from cxr import InvalidImageError, read_film
from streamlit_app.archive import unpack
from streamlit_app.film import Source
from tests.conftest import assert_film_or_error, draw_film, make_dicom, save_dicom

FILM = draw_film(1, pneumonia=True, size=160)
EXAMPLES = int(os.environ.get("CXR_FUZZ_EXAMPLES", "200"))


def picture(image_format: str, image: Image.Image | None = None, **options) -> bytes:
    file = io.BytesIO()
    (image or Image.fromarray(FILM)).save(file, image_format, **options)
    return file.getvalue()


def dicom(frame: bytes | None = None, syntax: str = "") -> bytes:
    dataset = make_dicom(FILM, WindowCenter=128, WindowWidth=200, RescaleSlope=1, RescaleIntercept=0)
    if frame:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].is_undefined_length = True
    return save_dicom(dataset)


def rle() -> bytes:
    dataset = make_dicom(FILM)
    dataset.compress(RLELossless)
    return save_dicom(dataset)


def with_table() -> bytes:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 16], np.arange(256, dtype=np.uint16).tobytes()
    return save_dicom(make_dicom(FILM, VOILUTSequence=[table]))


def bare() -> bytes:
    """Implicit, without preamble and meta header."""
    dataset = make_dicom(FILM)
    del dataset.file_meta
    file = io.BytesIO()
    dcmwrite(file, dataset, implicit_vr=True, little_endian=True)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("film.png", picture("PNG"))
        zipped.writestr("text.txt", "no film " * 100)
    return file.getvalue()


FILES = {
    "jpeg": picture("JPEG"),
    "progressive jpeg": picture("JPEG", progressive=True),
    "png": picture("PNG"),
    "png of 16 bits": picture("PNG", Image.fromarray(FILM.astype(np.uint16) * 16)),
    "palette png": picture("PNG", Image.fromarray(FILM).quantize(16), transparency=3),
    "tiff": picture("TIFF", compression="tiff_lzw"),
    "float tiff": picture("TIFF", Image.fromarray(FILM / np.float32(255))),
    "bmp": picture("BMP"),
    "webp": picture("WEBP"),
    "dicom": dicom(),
    "dicom jpeg": dicom(picture("JPEG"), JPEGBaseline8Bit),
    "dicom jpeg 2000": dicom(picture("JPEG2000", no_jp2=True), JPEG2000Lossless),
    "dicom rle": rle(),
    "dicom with a lookup table": with_table(),
    "dicom without a header": bare(),
}


@st.composite
def damages(draw, data: bytes) -> bytes:
    """A few bytes changed, mostly near the head, then cut off or repeated somewhere."""
    damaged = bytearray(data)
    head = st.integers(0, min(len(data), 700) - 1)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.one_of(head, st.integers(0, len(data) - 1)))
        damaged[at] = draw(st.one_of(st.sampled_from((0, 1, 127, 128, 255)), st.integers(0, 255)))
    cut = draw(st.one_of(st.none(), st.integers(0, len(data))))
    return bytes(damaged[:cut]) + draw(st.sampled_from((b"", bytes(damaged[:64]), b"\0" * 64)))


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_give_a_film_or_one_error(kind):
    read_film(io.BytesIO(FILES[kind]))

    @settings(max_examples=EXAMPLES, deadline=10_000, suppress_health_check=list(HealthCheck))
    @given(damages(FILES[kind]))
    def check(data: bytes) -> None:
        assert_film_or_error(data)

    check()


@settings(max_examples=EXAMPLES, deadline=10_000)
@given(st.binary(max_size=4096))
def test_any_bytes(data):
    with pytest.raises(InvalidImageError):
        read_film(io.BytesIO(data))


@settings(max_examples=EXAMPLES, deadline=10_000, suppress_health_check=list(HealthCheck))
@given(damages(archive()))
def test_damaged_archives_give_members_or_one_error(data):
    for source in unpack([Source("films.zip", "1", lambda: data)]):
        try:
            assert isinstance(source.read(), bytes)
        except InvalidImageError as error:
            assert "accepted is" in str(error)
