"""The page's sliders of threshold and prevalence."""

import re

import pytest

import cxr
from streamlit_app.threshold import adjust_prevalence, count_children
from tests.conftest import show_sample


def open_film(page, sample):
    """Show a sample, and open what explores its verdict."""
    page.session_state["explorer"] = page.session_state["elsewhere"] = True
    show_sample(page, sample)


def test_what_is_closed_is_not_computed(page):
    show_sample(page, "pneumonia_1")
    assert [expander.label for expander in page.main.expander] == [
        "Try a different threshold",
        "Where pneumonia is rarer or more frequent",
    ]
    assert not page.slider


def find_bar(page):
    """The page's bar of the probability."""
    return next(h.proto.body for h in page.get("html") if "on a bar from 0 to 1" in h.proto.body)


def test_the_threshold_explorer_counts_films(page):
    open_film(page, "pneumonia_1")
    points = cxr.Classifier.load("int8").card.operating_points["test"]
    at = points["threshold"].index(0.5)
    counts = {}
    for percent in (5, 50, 95):
        page.slider(key="threshold").set_value(percent).run()
        assert not page.exception
        text = next(m.value for m in page.markdown if "**Official test:**" in m.value)
        text = text.split("**Official test:**")[1].split("**Validation:**")[0]
        counts[percent] = [int(n) for n in re.findall(r"\d+", text)]
    found, sick, missed, cleared, healthy, alarms = counts[50]
    assert (sick, healthy) == (390, 234)
    assert (found + missed, alarms + cleared) == (sick, healthy)
    assert found / sick == pytest.approx(points["sensitivity"][at], abs=1e-3)
    assert cleared / healthy == pytest.approx(points["specificity"][at], abs=1e-3)
    assert counts[5][0] >= found >= counts[95][0]
    assert counts[5][5] >= alarms >= counts[95][5]


def test_the_bar_follows_the_explored_threshold(page):
    open_film(page, "pneumonia_1")
    assert "threshold 0.50" in find_bar(page)
    page.slider(key="threshold").set_value(20).run()
    assert "threshold 0.20" in find_bar(page)


@pytest.mark.parametrize("percent", [50, 10])
def test_the_prevalence_turns_the_probability_into_children(page, percent):
    open_film(page, "uncertain")
    page.slider(key="prevalence").set_value(percent).run()
    assert not page.exception
    text = next(m.value for m in page.markdown if "of 100 children" in m.value)
    probability = float(re.search(r"(0\.\d+)", page.subheader[0].value)[1])
    expected = adjust_prevalence(probability, 0.5, percent / 100)
    assert int(re.search(r"about (\d+) ha", text)[1]) == pytest.approx(100 * expected, abs=1)


def test_prevalence_follows_bayes():
    assert adjust_prevalence(0.3, 0.5, 0.5) == pytest.approx(0.3)
    assert adjust_prevalence(0.5, 0.5, 0.1) == pytest.approx(0.1)
    # sensitivity 0.9, specificity 0.8: a positive at half and at a fifth
    at_half = 0.9 * 0.5 / (0.9 * 0.5 + 0.2 * 0.5)
    assert adjust_prevalence(at_half, 0.5, 0.2) == pytest.approx(0.9 * 0.2 / (0.9 * 0.2 + 0.2 * 0.8))
    assert count_children(0.004) == "fewer than one has it"
    assert count_children(0.01) == "about 1 has it"
    assert count_children(0.999) == "more than 99 have it"


def test_the_explorer_tells_the_probability_from_the_chosen_threshold(page):
    open_film(page, "pneumonia_1")
    page.slider(key="threshold").set_value(50).run()
    text = next(m.value for m in page.markdown if "would be called" in m.value)
    assert re.search(r"of (over )?0\.\d\d, would be called \*\*pneumonia likely\*\* at 0\.50", text)
