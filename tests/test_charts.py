"""The page's charts: what they say, and that their shapes follow the numbers."""

import base64
import re

import pytest

from streamlit_app.charts import draw_probability, draw_roc, draw_runs, draw_stages


def find_widths(drawn: str) -> list[float]:
    return [float(width) for width in re.findall(r"width:([\d.]+)%", drawn)]


def test_the_bar_of_a_probability_ends_at_it():
    drawn = draw_probability(0.25, 0.5, (0.3, 0.7), "Probability 0.25")
    assert 'role="img" aria-label="Probability 0.25"' in drawn
    band, track, bar = find_widths(drawn)
    assert (band, track, bar) == (40.0, 100.0, 25.0)
    assert "left:calc(50.00% - 1.5px)" in drawn  # the threshold
    assert "left:30.00%" in drawn


def test_stages_share_the_bar_in_proportion():
    drawn = draw_stages({"decode": 30.0, "lungs": 10.0}, ("#111", "#222"), "Times")
    assert find_widths(drawn) == [75.0, 25.0]
    assert "left:75.00%" in drawn
    assert drawn.index("decode") < drawn.index("lungs")


def test_runs_have_marks_and_a_bar_to_their_median_on_a_common_axis():
    drawn = draw_runs({"int8": [1.0, 2.0], "float32": [4.0]}, "Runs")
    places = [float(x) for x in re.findall(r"left:([\d.]+)%", drawn)]
    assert places == pytest.approx([0, 24.75, 49.5, 0, 99.0])
    assert find_widths(drawn) == pytest.approx([37.12, 99.0], abs=0.01)
    assert drawn.index("1.5 ms") < drawn.index("4.0 ms")


def read_picture(drawn: str) -> str:
    return base64.b64decode(re.search(r"svg\+xml;base64,([\w+/=]+)", drawn)[1]).decode()


def test_roc_curves_are_drawn_with_the_chosen_points():
    curve = [(1.0, 0.6), (0.8, 0.8), (0.6, 1.0)]  # sensitivity, specificity
    drawn = read_picture(draw_roc({"test": curve}, {"test": (0.8, 0.8)}, "ROC"))
    assert 'points="200.00,0.00 100.00,50.00 0.00,100.00"' in drawn
    assert '<circle cx="100.00" cy="50.00"' in drawn
    below = read_picture(draw_roc({"test": [(0.1, 0.1)]}, {"test": (0.1, 0.1)}, "ROC"))
    assert 'points="200.00,100.00"' in below  # at the edge, not outside


def test_names_are_escaped():
    assert "<b>" not in draw_stages({"<b>": 1.0}, ("#111",), '"><b>')
    assert "<b>" not in draw_runs({"<b>": [1.0]}, "<b>")
