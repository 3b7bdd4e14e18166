"""Valid files that ask for more memory or time than a film may take. ``python -m tests.hostile --large``
measures them at the sizes that an attacker would choose."""

import io

import pytest

from cxr import InvalidImageError, read_film
from tests.conftest import assert_film_or_error
from tests.hostile.__main__ import SETS
from tests.hostile.honest import HONEST
from tests.hostile.known import KNOWN
from tests.hostile.measure import describe, measure_predict

HOSTILE = KNOWN | SETS["held_out"]
MAX_MB = 1200  # of the whole process tree, on any single file
NET_MB, NET_S = 3000, 60  # a run that takes more is killed, so that the test harms nobody
GREEDY = (
    "jpeg2000_precincts",
    "jpeg2000_signed",
    "tiff_giant_tile",
    "tiff_strips",
    "rle_expands",
    "jpeg_empty_segments",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_gives_a_film_or_one_error(name):
    case = HOSTILE[name]
    assert_film_or_error(case.build(case.small))


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_file_is_read(name):
    case = HONEST[name]
    film = read_film(io.BytesIO(case.build(case.small)))
    assert film.pixels.shape == (case.small, case.small)
    assert film.pixels[-32:, -32:].mean() > film.pixels[:32, :32].mean() + 150


@pytest.mark.parametrize("name", GREEDY)
def test_memory_of_the_process_tree_is_bounded(name, tmp_path):
    case = HOSTILE[name]
    file = tmp_path / name
    file.write_bytes(case.build(case.moderate))
    measured = measure_predict(file, NET_MB, NET_S)
    assert not measured.killed, describe(measured)
    rows = [line for line in measured.output.splitlines() if line.startswith("{")]
    assert len(rows) == 1, measured.output  # LiteRT may write a line on standard error
    assert "Traceback" not in measured.output
    assert measured.peak_mb < MAX_MB


def test_a_large_still_webp_fits_in_the_bounds():
    """Of one color, so that the file is small: it is decoded, and then refused as blank."""
    case = HOSTILE["webp_of_one_color"]
    with pytest.raises(InvalidImageError, match="a blank image"):
        read_film(io.BytesIO(case.build(case.large)))
