"""What the score does when a part of the film is erased."""

import re

import numpy as np
import pytest
from PIL import Image

import cxr
from streamlit_app.what_if import BOX, LUNGS, SURROUNDINGS, erase, select
from tests.conftest import SAMPLES, png, show_sample, upload

PNEUMONIA = np.asarray(Image.open(SAMPLES / "pneumonia_2.png").convert("L"))


def test_erasing_leaves_the_other_part():
    lungs = cxr.LungFinder.load().find(PNEUMONIA)
    mask = np.asarray(Image.fromarray(lungs.mask).resize(PNEUMONIA.shape[::-1])) > 0.9
    median = np.median(PNEUMONIA)
    without, alone = (
        erase(PNEUMONIA, select(part, lungs, None, PNEUMONIA.shape)) for part in (LUNGS, SURROUNDINGS)
    )
    assert np.abs(without[mask] - median).max() <= 1
    assert np.array_equal(alone[mask], PNEUMONIA[mask])
    corners = np.ix_([0, -1], [0, -1])
    assert np.array_equal(without[corners], PNEUMONIA[corners])
    assert np.all(np.abs(alone[corners] - median) <= 1)


def test_a_box_at_the_edge_of_the_film_is_erased_to_the_edge():
    lungs = cxr.LungFinder.load().find(PNEUMONIA)
    altered = erase(PNEUMONIA, select(BOX, lungs, (0.0, 0.0, 0.5, 1.0), PNEUMONIA.shape))
    assert np.abs(altered[[0, -1], :9] - np.median(PNEUMONIA)).max() <= 1
    assert np.array_equal(altered[:, -9:], PNEUMONIA[:, -9:])


def test_a_box_is_erased_and_nothing_else():
    lungs = cxr.LungFinder.load().find(PNEUMONIA)
    height, width = PNEUMONIA.shape
    altered = erase(PNEUMONIA, select(BOX, lungs, (0.25, 0.5, 0.5, 0.75), PNEUMONIA.shape))
    changed = altered != PNEUMONIA
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    near = 0.02 * max(height, width)
    assert [columns[0], columns[-1]] == pytest.approx([width / 4, width / 2], abs=near)
    assert [rows[0], rows[-1]] == pytest.approx([height / 2, 3 * height / 4], abs=near)
    middle = altered[round(0.6 * height) : round(0.65 * height), round(0.35 * width) : round(0.4 * width)]
    assert np.abs(middle - np.median(PNEUMONIA)).max() <= 1


def enlarge_with_grain() -> np.ndarray:
    """A film of more pixels than the page shows, whose score depends on them."""
    with Image.open(SAMPLES / "uncertain.png") as sample:
        large = np.asarray(sample.convert("L").resize((2400, 2000), Image.Resampling.BICUBIC), np.float32)
    grain = np.random.default_rng(0).normal(0.0, 6.0, large.shape)
    return np.clip(large + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("is_kept", [True, False])
def test_an_empty_corner_changes_nothing(page, monkeypatch, is_kept):
    """Neither does the page's smaller copy of the film."""
    monkeypatch.setattr("streamlit_app.viewer._read_box", lambda *_: (0.0, 0.0, 0.02, 0.02))
    if not is_kept:  # other sessions needed the room
        monkeypatch.setattr("streamlit_app.what_if.find_pixels", lambda _: None)
    upload(page, "film.png", png(enlarge_with_grain()))
    page.segmented_control(key="what_if").set_value(BOX).run()
    assert not page.exception
    said = next(m.value for m in page.markdown if "becomes" in m.value)
    before, after = re.search(r"([\d.]+) becomes ([\d.]+):", said).groups()
    assert float(after) == pytest.approx(float(before), abs=0.01)
    if is_kept:
        assert before in page.subheader[0].value


@pytest.mark.parametrize("part", [LUNGS, SURROUNDINGS])
def test_the_page_scores_the_film_again(page, part):
    show_sample(page, "pneumonia_2")
    heading = page.subheader[0].value
    page.segmented_control(key="what_if").set_value(part).run()
    assert not page.exception
    said = next(m.value for m in page.markdown if "becomes" in m.value)
    before, after = re.search(r"(\S+ ?[\d.]*) becomes (.*?):", said).groups()
    assert before.strip("*") in heading
    if part == LUNGS:
        assert 0.3 < float(after) < 0.7
        assert said.endswith("uncertain")  # no verdict without lungs
    else:
        assert after == before.strip("*")
    assert page.subheader[0].value == heading
