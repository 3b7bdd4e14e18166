"""The films of a session, and going back to one of them."""

import re

import numpy as np

from streamlit_app import film
from tests.conftest import SAMPLES, show_sample, upload

PNEUMONIA = (SAMPLES / "pneumonia_2.png").read_bytes()


def recent(page) -> dict[str, str]:
    return {title: verdict for title, verdict, _ in page.session_state.page_state.recent.values()}


def test_films_that_were_shown_are_kept_until_they_are_closed(page):
    show_sample(page, "normal_1")
    upload(page, "mine.png", PNEUMONIA)
    assert page.subheader[0].value.startswith("Pneumonia likely")
    assert recent(page) == {"Normal 1": "unlikely", "mine.png": "likely"}
    show_sample(page, "normal_2")
    assert page.subheader[0].value.startswith("Pneumonia unlikely")
    assert list(recent(page)) == ["Normal 1", "mine.png", "Normal 2"]
    next(button for button in page.button if button.label == "Close film").click().run()
    assert page.subheader[0].value.startswith("Pneumonia likely")  # the upload waited
    next(button for button in page.button if button.label == "Close film").click().run()
    assert not page.subheader
    state = page.session_state.page_state
    assert list(recent(page)) == ["Normal 1", "Normal 2"]
    kept = (state.slot.film, state.slot.key, state.drawing, state.rows, state.latencies)
    assert kept == (None, "", None, {}, {})
    assert not page.exception
    show_sample(page, "normal_1")
    assert list(recent(page)) == ["Normal 1", "Normal 2"]


def test_a_film_that_is_removed_from_the_drop_zone_is_forgotten(page):
    upload(page, "Doe_Jane.png", PNEUMONIA)
    state = page.session_state.page_state
    assert state.slot.film is not None
    page.file_uploader[0].set_value([]).run()
    assert not page.exception
    kept = (state.slot.film, state.slot.key, state.drawing, state.latencies, state.recent, state.picked)
    assert kept == (None, "", None, {}, {}, "")


def test_a_session_remembers_the_last_films(page, monkeypatch):
    monkeypatch.setattr(film, "MAX_RECENT", 2)
    for sample in ("normal_1", "normal_2", "pneumonia_1"):
        show_sample(page, sample)
    assert list(recent(page)) == ["Normal 2", "Pneumonia 1"]


def test_the_verdict_of_a_film_is_that_of_the_last_model(page, monkeypatch):
    show_sample(page, "normal_1")
    monkeypatch.setattr("streamlit_app.verdict.tell_briefly", lambda label, screening, card: card.variant)
    page.radio(key="model").set_value("float32").run()
    assert recent(page) == {"Normal 1": "float32"}


def test_a_refused_film_that_was_scored_anyway_is_shown_as_refused(page):
    show_sample(page, "refused")
    next(button for button in page.button if button.label == "Score it anyway").click().run()
    assert re.fullmatch("refused: (un)?likely", recent(page)["Refused"])


def test_the_refused_sample_is_refused(page):
    show_sample(page, "refused")
    assert page.subheader[0].value.startswith("Not scored")


def test_the_drawing_is_the_refused_sample():
    import cv2

    from training.composites import draw_hand

    drawn = cv2.imread(str(SAMPLES / "refused.png"), cv2.IMREAD_GRAYSCALE)
    assert np.abs(drawn.astype(int) - draw_hand(448)).max() <= 2
