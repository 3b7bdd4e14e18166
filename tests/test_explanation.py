import numpy as np
import pytest

from cxr import overlay_evidence

HOT = np.zeros((5, 5), np.float32)
HOT[1, 1] = 4.0


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
