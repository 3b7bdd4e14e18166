"""The viewer of the film in Chromium."""

import re

import pytest

from tests.e2e.conftest import settle, wait_for_verdict


def test_the_viewer_by_keyboard(open_page):
    page = open_page("/?sample=pneumonia_1")
    wait_for_verdict(page, "Pneumonia likely")
    settle(page)
    pictures = page.locator(".pictures")
    film = page.get_by_role("img", name=re.compile("^Chest film of"))
    width = pictures.bounding_box()["width"]
    page.get_by_label("Zoom").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert pictures.bounding_box()["width"] == pytest.approx(2 * width, rel=0.01)
    page.get_by_role("button", name="Invert").press("Enter")
    assert "invert(1)" in film.evaluate("film => film.style.filter")
    page.get_by_label("Evidence").fill("0")
    assert page.locator("img.layer").evaluate("layer => layer.style.opacity") == "0"
    page.get_by_role("button", name="Reset").press("Enter")
    assert pictures.bounding_box()["width"] == pytest.approx(width, rel=0.01)
    assert "invert" not in film.evaluate("film => film.style.filter")


def test_settings_of_the_viewer_end_with_their_film(open_page):
    page = open_page("/?sample=pneumonia_1")
    wait_for_verdict(page, "Pneumonia likely")
    settle(page)
    film = page.get_by_role("img", name=re.compile("^Chest film of"))
    page.get_by_label("Zoom").fill("300")
    page.get_by_label("Contrast").fill("200")
    page.get_by_role("button", name="Invert").press("Enter")
    assert "invert(1)" in film.evaluate("film => film.style.filter")
    page.get_by_text("Try a different threshold").click()
    page.get_by_role("slider", name="Threshold").press("ArrowRight")  # the film is the same
    settle(page)
    assert "invert(1)" in film.evaluate("film => film.style.filter")
    page.get_by_role("button", name="Normal 1", exact=True).click()
    wait_for_verdict(page, "Pneumonia unlikely")
    settle(page)
    assert film.evaluate("film => film.style.filter") == "brightness(1) contrast(1)"
    assert page.locator(".pictures").evaluate("p => p.style.transform").startswith("scale(1)")
    assert page.get_by_label("Zoom").input_value() == "100"
