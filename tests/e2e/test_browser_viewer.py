"""The viewer of the film in Chromium: mouse, touch, keyboard, and the two questions to the server."""

import re

import numpy as np
import pytest
from PIL import Image

from tests.conftest import SAMPLES
from tests.e2e.conftest import OUTPUT, check_accessibility, keep, settle, upload, wait_for_verdict

VISIBLE = ".pane.colored .pictures"


@pytest.fixture
def show(open_page):
    """A function that opens a sample and waits for its viewer."""

    def show_sample(name: str = "pneumonia_1", **options):
        page = open_page(f"/?sample={name}", **options)
        wait_for_verdict(page, "Pneumonia")
        settle(page)
        page.locator(".stage").scroll_into_view_if_needed()
        return page

    return show_sample


def find_film(page):
    return page.get_by_role("img", name=re.compile("^Chest film of"))


def zoom_of(page) -> float:
    return float(page.get_by_label("Zoom").input_value()) / 100


def filter_of(page) -> str:
    return find_film(page).evaluate("film => film.style.filter")


def place(page, x: float, y: float) -> tuple[float, float]:
    """The point of the page at shares of the viewer's width and height."""
    box = page.locator(".pane.colored").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def point_of_film(page, x: float, y: float) -> tuple[float, float]:
    """What share of the film lies at a place of the page."""
    box = page.locator(VISIBLE).bounding_box()
    return (x - box["x"]) / box["width"], (y - box["y"]) / box["height"]


def touch(page, *steps) -> None:
    """Fingers that go from step to step, each a list of points of the page, and are lifted."""
    session = page.context.new_cdp_session(page)
    for i, points in enumerate(steps):
        session.send(
            "Input.dispatchTouchEvent",
            {
                "type": "touchMove" if i else "touchStart",
                "touchPoints": [{"x": x, "y": y, "id": j} for j, (x, y) in enumerate(points)],
            },
        )
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_wheel_drag_and_double_click(show):
    page = show()
    x, y = place(page, 0.3, 0.4)
    page.mouse.move(x, y)
    before = point_of_film(page, x, y)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(300)
    assert zoom_of(page) > 1.8
    assert point_of_film(page, x, y) == pytest.approx(before, abs=0.01)  # zoomed at the pointer
    page.mouse.down()
    page.mouse.move(x + 50, y + 30, steps=4)
    page.mouse.up()
    assert point_of_film(page, x + 50, y + 30) == pytest.approx(before, abs=0.01)  # it follows the hand
    page.mouse.dblclick(x, y)
    assert zoom_of(page) == 1


def test_the_right_button_sets_the_window(show):
    page = show()
    x, y = place(page, 0.5, 0.5)
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x + 100, y - 60, steps=4)
    page.mouse.up(button="right")
    assert filter_of(page) == "brightness(1.3) contrast(1.5)"
    assert zoom_of(page) == 1


def test_pinch_and_two_fingers(show):
    page = show(width=390)
    (ax, y), (bx, _) = place(page, 0.4, 0.5), place(page, 0.6, 0.5)
    touch(page, [(ax, y), (bx, y)], [(ax - 20, y), (bx + 20, y)], [(ax - 40, y), (bx + 40, y)])
    assert zoom_of(page) == pytest.approx((bx - ax + 80) / (bx - ax), rel=0.15)
    assert filter_of(page) == "brightness(1) contrast(1)"
    page.get_by_role("button", name="Reset").click()
    page.locator(".stage").scroll_into_view_if_needed()
    (ax, y), (bx, _) = place(page, 0.4, 0.5), place(page, 0.6, 0.5)
    touch(page, [(ax, y), (bx, y)], [(ax + 20, y), (bx + 20, y)], [(ax + 60, y), (bx + 60, y)])
    assert zoom_of(page) == 1
    assert float(re.search(r"contrast\(([\d.]+)\)", filter_of(page))[1]) > 1.2


def test_the_viewer_by_keyboard(show):
    page = show()
    width = page.locator(VISIBLE).bounding_box()["width"]
    stage = page.get_by_role("group", name="Film viewer")
    stage.focus()
    for key in ("+", "+", "+"):
        page.keyboard.press(key)
    assert page.locator(VISIBLE).bounding_box()["width"] == pytest.approx(1.25**3 * width, rel=0.01)
    left = page.locator(VISIBLE).bounding_box()["x"]
    page.keyboard.press("ArrowRight")
    assert page.locator(VISIBLE).bounding_box()["x"] < left - 5
    page.keyboard.press("i")
    assert "invert(1)" in filter_of(page)
    layer, outline = page.locator(".colored .layer"), page.locator(".colored .outline")
    assert layer.is_visible()
    assert outline.is_visible()
    page.keyboard.down("e")
    assert not layer.is_visible()
    assert not outline.is_visible()
    page.keyboard.up("e")
    assert layer.is_visible()
    page.keyboard.press("l")
    assert not outline.is_visible()
    page.keyboard.press("0")
    assert page.locator(VISIBLE).bounding_box()["width"] == pytest.approx(width, rel=0.01)
    assert "invert" not in filter_of(page)
    page.get_by_label("Zoom").focus()  # and the same by the controls
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert zoom_of(page) == 2
    page.get_by_role("slider", name="Evidence").fill("0")
    assert layer.evaluate("layer => layer.style.opacity") == "0"
    page.get_by_role("button", name="Reset").press("Enter")
    assert zoom_of(page) == 1


def test_side_by_side_and_full_screen(show):
    page = show()
    page.get_by_role("button", name="Side by side").click()
    plain = page.get_by_role("img", name="The film without evidence")
    assert plain.bounding_box()["x"] < find_film(page).bounding_box()["x"]
    assert plain.bounding_box()["width"] == pytest.approx(find_film(page).bounding_box()["width"], abs=2)
    keep(page, "side_by_side")
    check_accessibility(page)
    page.get_by_role("button", name="Full screen").click()
    page.wait_for_function("document.fullscreenElement !== null")
    assert page.locator(".viewer").bounding_box()["width"] == page.viewport_size["width"]
    page.screenshot(path=OUTPUT / "full_screen.png")
    page.get_by_role("group", name="Film viewer").press("f")
    page.wait_for_function("document.fullscreenElement === null")


def test_a_large_film_is_sent_in_full_once_it_is_enlarged(open_page, tmp_path):
    film = Image.open(SAMPLES / "pneumonia_2.png").convert("L").resize((2000, 1800))
    film.save(tmp_path / "large.png")
    page = open_page()
    upload(page, tmp_path / "large.png")
    wait_for_verdict(page, "Pneumonia likely")
    settle(page)
    natural = "film => film.decode().then(() => film.naturalWidth)"
    assert find_film(page).evaluate(natural) == 1024
    page.get_by_label("Zoom").fill("200")
    page.wait_for_function(
        "() => [...document.querySelectorAll('*')].some("
        "e => e.shadowRoot?.querySelector('.colored .film')?.naturalWidth === 2000)"
    )
    assert find_film(page).evaluate(natural) == 2000


def test_a_box_is_erased_where_it_is_dragged(show):
    page = show("pneumonia_2")
    page.get_by_role("radio", name="Erase a box").click()
    page.get_by_text("Drag a box on the film").wait_for()
    settle(page)
    page.locator(".stage").scroll_into_view_if_needed()
    page.mouse.move(*place(page, 0.1, 0.1))
    page.mouse.down()
    page.mouse.move(*place(page, 0.9, 0.9), steps=5)
    page.mouse.up()
    said = page.get_by_text(re.compile(r"becomes 0\.\d+:")).inner_text()
    assert 0.2 < float(re.search(r"becomes (0\.\d+)", said)[1]) < 0.8  # no lungs, no answer
    drawn = page.locator(".box").bounding_box()
    assert [drawn["x"], drawn["y"]] == pytest.approx(place(page, 0.1, 0.1), abs=2)
    page.mouse.click(*place(page, 0.5, 0.5))  # draws no box, so the one that was scored stays
    assert page.locator(".box").bounding_box() == pytest.approx(drawn, abs=1)
    altered = page.get_by_role("img", name="The film after: Erase a box")
    assert altered.evaluate("image => image.naturalWidth") > 100
    keep(page, "box_erased")
    check_accessibility(page)

    page.get_by_role("group", name="Film viewer").focus()  # the box by keyboard: smaller, so less is lost
    for _ in range(14):
        page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_function("text => !document.body.innerText.includes(text)", arg=said)
    small = page.locator(".box").bounding_box()
    assert small["width"] < drawn["width"] / 4
    for _ in range(30):  # a box that is moved against an edge keeps its size
        page.keyboard.press("ArrowLeft")
    assert page.locator(".box").bounding_box()["width"] == pytest.approx(small["width"], abs=1)

    settle(page)
    page.get_by_role("button", name="Normal 1", exact=True).click()
    wait_for_verdict(page, "Pneumonia unlikely")
    settle(page)
    assert page.get_by_text("becomes").count() == 0
    assert page.locator(".box").is_hidden()
    page.get_by_role("button", name="Pneumonia 2", exact=True).click()  # the box is still on its film
    page.get_by_text("becomes").wait_for()
    settle(page)
    assert page.locator(".box").bounding_box()["width"] == pytest.approx(small["width"], abs=1)


def test_settings_of_the_viewer_end_with_their_film(show):
    page = show()
    page.get_by_label("Zoom").fill("300")
    page.get_by_label("Contrast").fill("200")
    page.get_by_role("button", name="Invert").press("Enter")
    assert "invert(1)" in filter_of(page)
    page.get_by_text("Try a different threshold").click()
    page.get_by_role("slider", name="Threshold").press("ArrowRight")  # the film is the same
    settle(page)
    assert "invert(1)" in filter_of(page)
    page.get_by_role("button", name="Normal 1", exact=True).click()
    wait_for_verdict(page, "Pneumonia unlikely")
    settle(page)
    assert filter_of(page) == "brightness(1) contrast(1)"
    assert page.locator(VISIBLE).evaluate("p => p.style.transform").startswith("scale(1)")
    assert zoom_of(page) == 1


def test_the_evidence_is_saved_as_a_picture(show, tmp_path):
    page = show()
    page.get_by_role("button", name="Save", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Evidence as PNG").click()
    download.value.save_as(tmp_path / "evidence.png")
    picture = np.asarray(Image.open(tmp_path / "evidence.png"))
    with Image.open(SAMPLES / "pneumonia_1.png") as film:
        assert picture.shape == (*film.size[::-1], 3)
    assert np.ptp(picture.astype(int), axis=2).max() > 50  # colored


def test_the_link_of_a_sample_is_copied(show):
    page = show()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
