"""The page in Chromium, with many films."""

import csv
import io
import re
from pathlib import Path

from tests.conftest import SAMPLES
from tests.e2e.conftest import check_accessibility, keep, settle, upload, wait_for_verdict


def test_many_films_with_a_bad_one_among_them(open_page, files):
    page = open_page()
    paths = [SAMPLES / "normal_1.png", files["damaged"], files["photograph"], SAMPLES / "pneumonia_1.png"]
    upload(page, *paths)
    page.get_by_role("heading", name="1 of 2 films: pneumonia likely").wait_for()
    keep(page, "batch")
    check_accessibility(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV", exact=True).click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert [row["path"] for row in rows] == [path.name for path in paths]
    assert [row["label"] for row in rows] == ["NORMAL", "", "", "PNEUMONIA"]
    assert [row["screening"] for row in rows] == ["typical", "", "refused", "typical"]
    assert "no image of a known format" in rows[1]["error"]


def test_a_row_of_the_table_opens_its_film(open_page, files):
    page = open_page()
    upload(page, SAMPLES / "normal_1.png", files["photograph"])
    page.get_by_role("heading", name="0 of 1 films: pneumonia likely").wait_for()
    page.get_by_text("Show scores of refused films too").click()
    settle(page)  # the heading counts no refused film
    table = page.get_by_test_id("stDataFrame")
    table.click(position={"x": 18, "y": 35 + 56 + 28})  # the box of the second row
    wait_for_verdict(page, "Pneumonia (un)?likely.*Refused film, scored anyway")
    keep(page, "row")


def test_a_drop_of_more_than_a_session_may_hold_gets_a_sentence(open_page, tmp_path):
    paths = []
    for i in range(6):  # the last two are too many
        path = tmp_path / f"{i}.png"
        path.write_bytes(bytes(60 * 2**20))
        paths.append(path)
    page = open_page()
    upload(page, *paths)
    page.get_by_text("Received 2 files of 120 MB too many, not taken. One session").wait_for()
    page.get_by_role("heading", name="0 of 0 films: pneumonia likely").wait_for()
    keep(page, "too_many_bytes")
    assert page.get_by_text("AxiosError").count() == 0
    page.get_by_role("button", name="Normal 1", exact=True).click()
    wait_for_verdict(page, "Pneumonia unlikely")
    assert page.get_by_text("too many, not taken").count() == 0


def test_a_file_that_is_too_large_is_said_to_be_so_beside_a_film(open_page, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(66 * 10**6))
    page = open_page()
    upload(page, SAMPLES / "normal_1.png", tmp_path / "large.png")
    wait_for_verdict(page, "Pneumonia unlikely")
    page.get_by_text("File must be 64.0MB or smaller").wait_for()


def test_the_table_has_no_export_of_its_own(open_page, files):
    page = open_page()
    upload(page, SAMPLES / "normal_1.png", files["photograph"])
    page.get_by_role("heading", name="0 of 1 films: pneumonia likely").wait_for()
    page.get_by_test_id("stDataFrame").hover()
    page.get_by_role("button", name="Fullscreen: One row per film").wait_for()
    assert page.get_by_role("button", name="Download as CSV").count() == 1  # the page's, which is safe


def test_the_gallery_is_stepped_through_with_keys(open_page):
    page = open_page(width=390)
    upload(page, *(SAMPLES / f"{name}.png" for name in ("normal_1", "pneumonia_1", "uncertain")))
    page.get_by_role("heading", name="1 of 3 films: pneumonia likely").wait_for()
    wait_for_verdict(page, "Pneumonia")  # of the last film
    page.get_by_role("radio", name="Gallery").click()
    tile = page.get_by_role("button", name=re.compile("^normal_1.png: unlikely, under"))
    tile.click()
    wait_for_verdict(page, "Pneumonia unlikely.*under")  # the last film is unlikely too
    assert tile.get_attribute("aria-pressed") == "true"
    settle(page)
    keep(page, "phone_gallery")
    check_accessibility(page)
    page.keyboard.press("n")
    wait_for_verdict(page, r"Pneumonia likely.*0\.99")
    page.get_by_text("Film 2 of 3").wait_for()
    settle(page)
    page.keyboard.press("p")
    wait_for_verdict(page, "Pneumonia unlikely")
