import dataclasses
import re

import numpy as np
import pytest

from cxr import Classifier, Lungs, overlay_evidence, read_image
from cxr.explanation import locate_evidence, outline_lungs
from streamlit_app.viewer import tell_place
from tests.conftest import SAMPLES, draw_lungs

HOT = np.zeros((5, 5), np.float32)
HOT[1, 1] = 4.0
PLACES = [(10, 20), (40, 20), (70, 20), (10, 60), (40, 60)]  # in five zones


def test_no_evidence_leaves_the_film_gray(film):
    for evidence in (np.zeros((5, 5), np.float32), np.full((5, 5), -3, np.float32)):
        overlay = overlay_evidence(film, evidence, scale=4.0)
        assert overlay.dtype == np.uint8
        assert np.array_equal(overlay, np.repeat(film[..., None], 3, axis=-1))


def test_color_lies_where_the_evidence_is(film):
    overlay = overlay_evidence(film, HOT, scale=4.0, opacity=1.0).astype(int)
    colored = np.ptp(overlay, axis=-1) > 30
    y, x = np.argwhere(colored).mean(axis=0) / film.shape
    assert (y, x) == pytest.approx((0.3, 0.3), abs=0.05)
    assert not colored[80:, 80:].any()


def test_scale_is_fixed_not_the_maps_own_maximum(film):
    weak = overlay_evidence(film, HOT / 8, scale=4.0).astype(int)
    strong = overlay_evidence(film, HOT, scale=4.0).astype(int)
    gray = film[..., None].astype(int)
    assert np.abs(weak - gray).max() < 0.5 * np.abs(strong - gray).max()


def test_opacity_zero_is_the_film(film):
    overlay = overlay_evidence(film, HOT, scale=4.0, opacity=0.0)
    assert np.array_equal(overlay[..., 0], film)


def test_values_beyond_the_scale_and_not_finite_are_drawn():
    tall = np.zeros((200, 90), np.uint8)
    evidence = np.array([[np.nan, np.inf], [1e9, -1e9]], np.float32)
    assert overlay_evidence(tall, evidence, scale=1.0).shape == (200, 90, 3)


def test_refuses_ranges(film):
    for options in ({"scale": 0.0}, {"scale": 1.0, "opacity": 1.5}):
        with pytest.raises(ValueError, match="received"):
            overlay_evidence(film, HOT, **options)


def find_lungs(box=(0.0, 0.0, 1.0, 1.0)) -> Lungs:
    mask = np.logical_or(*draw_lungs(80)).astype(np.float32)
    return Lungs(mask, box, cut_off=(), quarter_turns=0)


@pytest.mark.parametrize(
    ("row", "column", "zone"),
    [(20, 20, "right upper"), (40, 60, "left middle"), (62, 18, "right lower"), (60, 58, "left lower")],
)
def test_the_zone_of_the_evidence_is_the_childs(row, column, zone):
    """The child's right lung is on the left of the film."""
    evidence = np.full((80, 80), -1.0, np.float32)
    evidence[row - 4 : row + 4, column - 4 : column + 4] = 5.0
    shares = locate_evidence(evidence, find_lungs())
    assert next(iter(shares)) == zone
    assert shares[zone] > 0.9
    assert len(shares) == 6
    assert sum(shares.values()) == pytest.approx(1.0)


def test_evidence_in_both_lungs_is_divided_between_zones():
    evidence = np.zeros((80, 80), np.float32)
    evidence[58:64, 16:24], evidence[58:64, 56:60] = 3.0, 3.0
    shares = locate_evidence(evidence, find_lungs())
    assert list(shares)[:2] == ["right lower", "left lower"]
    assert shares["right lower"] == pytest.approx(2 / 3)


def test_evidence_that_is_spread_is_said_to_be_so():
    classifier, lungs = Classifier.load("int8"), find_lungs()
    prediction = classifier.predict(read_image(SAMPLES / "normal_1.png"))
    card, said = classifier.card, []
    for places in (PLACES[:1], PLACES[:3], PLACES):
        evidence = np.zeros((80, 80), np.float32)
        for row, column in places:
            evidence[row, column] = card.evidence_scale
        shown = dataclasses.replace(prediction, evidence=evidence, lungs=lungs)
        said.append(tell_place(shown, card))
    assert re.fullmatch(r"Most of the evidence lies in the \S+ \S+ zone\.", said[0])
    assert re.fullmatch(r"Most of the evidence lies in the .* and .* zones\.", said[1])
    assert said[2].startswith("The evidence is spread over the lungs")


def test_no_zone_without_evidence_or_lungs():
    assert locate_evidence(np.full((80, 80), -1.0, np.float32), find_lungs()) == {}
    assert locate_evidence(np.ones((80, 80), np.float32), find_lungs(box=None)) == {}


def test_the_outline_follows_the_edge_of_the_lungs():
    mask = np.zeros((40, 40), np.float32)
    mask[10:30, 0:16] = 1.0  # cut off at the left edge, where it is closed
    layer = outline_lungs(Lungs(mask, (0.0, 0.25, 0.4, 0.75), ("left",), 0), (200, 200))
    line = layer[..., 3] > 0
    assert set(np.unique(layer[..., 3])) == {0, 255}
    rows, columns = np.flatnonzero(line.any(1)), np.flatnonzero(line.any(0))
    assert [rows[0], rows[-1], columns[0], columns[-1]] == pytest.approx([50, 149, 0, 79], abs=1)
    assert line[100, :2].all()
    assert line[100].sum() == 4  # two pixels on each side
    assert not line[60:140, 10:70].any()
