"""What the score does when a part of the film is erased."""

import re

import numpy as np
import pytest
from PIL import Image

import cxr
from streamlit_app.what_if import LUNGS, SURROUNDINGS, erase
from tests.conftest import SAMPLES

PNEUMONIA = np.asarray(Image.open(SAMPLES / "pneumonia_2.png").convert("L"))


def test_erasing_leaves_the_other_part():
    lungs = cxr.LungFinder.load().find(PNEUMONIA)
    mask = np.asarray(Image.fromarray(lungs.mask).resize(PNEUMONIA.shape[::-1])) > 0.9
    median = np.median(PNEUMONIA)
    without, alone = (erase(PNEUMONIA, lungs, part) for part in (LUNGS, SURROUNDINGS))
    assert np.abs(without[mask] - median).max() <= 1
    assert np.array_equal(alone[mask], PNEUMONIA[mask])
    corners = np.ix_([0, -1], [0, -1])
    assert np.array_equal(without[corners], PNEUMONIA[corners])
    assert np.all(np.abs(alone[corners] - median) <= 1)


@pytest.mark.parametrize("part", [LUNGS, SURROUNDINGS])
def test_the_page_scores_the_film_again(page, part):
    page.button(key="pneumonia_2").click().run()
    heading = page.subheader[0].value
    page.segmented_control(key="what_if").set_value(part).run()
    assert not page.exception
    said = next(m.value for m in page.markdown if "becomes" in m.value)
    before, after = re.search(r"(\S+ ?[\d.]*) becomes (.*?):", said).groups()
    assert before.strip("*") in heading
    if part == LUNGS:
        assert 0.3 < float(after) < 0.7
    else:
        assert after == before.strip("*")
    assert page.subheader[0].value == heading
