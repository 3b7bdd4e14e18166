"""Archives that mean harm, as they are unpacked."""

import io
import random
import tracemalloc
import zipfile

import pytest

from cxr import InvalidImageError
from streamlit_app.archive import unpack
from streamlit_app.film import Source
from tests.conftest import SAMPLES, archive

NORMAL = (SAMPLES / "normal_1.png").read_bytes()


def test_an_archive_is_not_copied_in_memory():
    data = archive({"a.bin": random.Random(0).randbytes(2**24)})
    tracemalloc.start()
    listed = list(unpack([Source("films.zip", "key", lambda: data)]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(listed) == 1
    assert peak < 2**22


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_cannot_be_bounded_are_not_unpacked(method):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        zipped.writestr("normal_1.png", NORMAL)
    (member,) = unpack([Source("films.zip", "1", file.getvalue)])
    with pytest.raises(InvalidImageError, match="neither stored nor deflated"):
        member.read()


def test_a_member_is_read_up_to_the_limit_of_a_file():
    bomb = archive({"zeros.png": b"\0" * (200 * 2**20)})
    assert len(bomb) < 300_000
    (member,) = unpack([Source("films.zip", "1", lambda: bomb)])
    assert len(member.read()) == 64 * 2**20 + 1


@pytest.mark.parametrize("at", range(1, 22))
def test_a_forged_end_of_the_directory_is_an_error_and_no_crash(at):
    whole = bytearray(archive({"a.png": NORMAL}))
    end = len(whole) - 22
    whole[end + at : end + at + 4] = b"PK\x05\x06"[: 22 - at]
    for member in unpack([Source("films.zip", "1", lambda: bytes(whole))]):
        try:
            assert member.read() in (NORMAL, bytes(whole))
        except InvalidImageError as error:
            assert "ZIP" in str(error)


def test_members_of_the_current_folder_are_films_and_hidden_ones_are_none():
    names = [
        "./a.png",
        "b/./c.png",
        "../d.png",
        "./.hidden",
        "b/.hidden/e.png",
        "./__MACOSX/f",
        ".DS_Store",
    ]
    data = archive(dict.fromkeys(names, NORMAL))
    found = [source.name for source in unpack([Source("films.zip", "1", lambda: data)])]
    assert found == ["a.png", "b/./c.png", "../d.png"]
