"""Many films on the page, one by one or in archives."""

import logging
import re

import pytest

from cxr import Classifier, InvalidImageError
from cxr.decoding import NO_PROCESS
from cxr.rows import Scored
from streamlit_app import batch
from streamlit_app.archive import unpack
from streamlit_app.state import BATCH_VIEW
from tests.conftest import SAMPLES, archive, load_photograph, png, show_sample, upload

NORMAL = (SAMPLES / "normal_1.png").read_bytes()


PHOTOGRAPH = load_photograph()


def test_a_zip_gets_a_table_in_which_a_bad_file_is_a_row(page):
    members = {
        "a/normal_1.png": (SAMPLES / "normal_1.png").read_bytes(),
        "a/notes.txt": b"no film",
        "photograph.png": png(PHOTOGRAPH),
        "__MACOSX/a/._normal_1.png": b"resource fork",
        "pneumonia_1.png": (SAMPLES / "pneumonia_1.png").read_bytes(),
    }
    upload(page, "films.zip", archive(members))
    assert not page.exception
    assert page.subheader[0].value == "1 of 2 films: pneumonia likely"
    table = page.dataframe[0].value.set_index("path")
    assert list(table.index) == ["a/normal_1.png", "a/notes.txt", "photograph.png", "pneumonia_1.png"]
    assert list(table.verdict) == ["Pneumonia unlikely", "", "", "Pneumonia likely"]
    assert "no image of a known format" in table.error["a/notes.txt"]
    assert table.screening["photograph.png"] == "refused"
    assert table.probability["photograph.png"] == ""
    page.checkbox[0].check().run()
    table = page.dataframe[0].value.set_index("path")
    assert 0 <= float(table.probability["photograph.png"]) <= 1
    assert table.screening["photograph.png"] == "refused"


def test_scores_of_refused_films_are_shown_and_withheld_again(page):
    upload(page, "films.zip", archive({"photograph.png": png(PHOTOGRAPH), "normal.png": NORMAL}))
    state = page.session_state.page_state
    state.picked = next(key for (key, _), row in state.rows.items() if row["path"] == "photograph.png")
    page.run()
    assert page.subheader[1].value.startswith("Not scored")
    page.checkbox[0].check().run()
    assert "Refused film, scored anyway" in page.subheader[1].value
    assert "Withdraw the score" not in [button.label for button in page.button]  # the box does it
    assert "The table and the CSV have this film" not in " ".join(c.value for c in page.caption)
    page.checkbox[0].uncheck().run()
    assert not page.exception
    assert page.subheader[1].value.startswith("Not scored")
    next(b for b in page.button if b.label == "Score it anyway").click().run()
    assert "Refused film, scored anyway" in page.subheader[1].value
    assert "The table and the CSV have this film" in " ".join(c.value for c in page.caption)
    assert list(page.dataframe[0].value.verdict) == ["", "Pneumonia unlikely"]


def test_a_tile_in_the_gallery_says_that_its_film_is_refused(page, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "streamlit_app.batch.gallery.show", lambda key, _title, tiles, *_: shown.append(tiles)
    )
    upload(page, "films.zip", archive({"photograph.png": png(PHOTOGRAPH), "normal.png": NORMAL}))
    page.session_state[BATCH_VIEW] = "Gallery"
    page.run()
    assert shown[-1][0].note == "refused"
    page.checkbox[0].check().run()
    assert not page.exception
    assert page.subheader[0].value == "0 of 1 films: pneumonia likely"
    refused, normal = (tile.note for tile in shown[-1])
    assert re.fullmatch(r"refused: (un)?likely, \S+", refused)
    assert normal.startswith("unlikely, ")


def test_a_refused_member_leaves_nothing_of_its_file(page):
    """An exception that is kept would keep its traceback, and with it what was unpacked."""
    upload(page, "films.zip", archive({"bad.png": bytes(2**20), "normal.png": NORMAL}))
    state = page.session_state.page_state
    state.picked = next(key for (key, _), row in state.rows.items() if row["path"] == "bad.png")
    for _ in range(2):
        page.run()
        assert page.error[0].value.startswith("This file cannot be scored. Received")
        assert type(state.slot.error) is str


def test_a_film_of_a_zip_stays_among_the_films_shown_before(page):
    upload(page, "films.zip", archive({"one.png": NORMAL, "two.png": NORMAL}))
    state = page.session_state.page_state
    keys = [key for key, _ in state.rows]
    for key in keys:
        state.picked = key
        page.run()
    assert not page.exception
    assert list(state.recent) == keys
    show_sample(page, "pneumonia_1")
    assert list(state.recent) == [*keys, "pneumonia_1"]


def test_a_damaged_zip_or_member_is_a_row(page):
    whole = archive({"normal_1.png": (SAMPLES / "normal_1.png").read_bytes()})
    middle = len(whole) // 2
    upload(page, "films.zip", whole[:middle] + b"damage" + whole[middle + 6 :])
    assert not page.exception
    assert "damaged or encrypted" in page.dataframe[0].value.error[0]


def test_a_zip_that_lists_too_many_members_is_not_opened(page):
    upload(page, "films.zip", archive({f"{i}": b"" for i in range(30_000)}))
    assert not page.exception
    assert "of far too many members" in page.dataframe[0].value.error[0]


def test_a_damaged_stream_is_a_row_and_the_others_are_scored(page):
    whole = bytearray(archive({"text.txt": b"a b c " * 5000, "normal_1.png": NORMAL}))
    start = whole.index(b"text.txt") + len("text.txt")
    whole[start : start + 8] = b"\xff" * 8
    upload(page, "films.zip", bytes(whole))
    assert not page.exception
    table = page.dataframe[0].value.set_index("path")
    assert "damaged or encrypted" in table.error["text.txt"]
    assert table.verdict["normal_1.png"] == "Pneumonia unlikely"


@pytest.mark.parametrize("members", [{}, {"folder/": b"", "__MACOSX/a": b"x", ".hidden": b"x"}])
def test_an_archive_without_files_is_said_to_be_one(page, members):
    upload(page, "films.zip", archive(members))
    assert not page.exception
    assert "a ZIP archive without files" in page.error[0].value


def test_films_are_scored_once_in_a_session(page, monkeypatch):
    upload(page, "films.zip", archive({"a.png": NORMAL, "b.png": png(PHOTOGRAPH)}))
    first = page.dataframe[0].value
    monkeypatch.setattr("streamlit_app.batch.score_film", None)  # another call would fail
    page.checkbox[0].check().run()
    assert not page.exception
    assert list(page.dataframe[0].value.path) == list(first.path)


def test_a_member_without_a_name_is_a_row_and_the_others_are_scored(page):
    members = archive({"x.png": NORMAL, "y.png": NORMAL, "z.png": NORMAL})
    named = members.replace(b"x.png", b"\0.png")
    assert named != members
    upload(page, "films.zip", named)
    assert not page.exception
    assert list(page.dataframe[0].value.verdict) == ["Pneumonia unlikely"] * 3
    assert list(page.dataframe[0].value.path) == ["(no name)", "y.png", "z.png"]


def test_an_empty_name_is_a_row(page):
    whole = archive({"x": NORMAL, "y.png": NORMAL})
    end = whole.rindex(b"PK\5\6")
    start = int.from_bytes(whole[end + 16 : end + 20], "little")
    directory = bytearray(whole[start:end])
    assert directory[46:47] == b"x"
    directory[28:30] = b"\0\0"  # the length of the first name
    del directory[46]
    tail = bytearray(whole[end:])
    tail[12:16] = len(directory).to_bytes(4, "little")
    upload(page, "films.zip", bytes(whole[:start] + directory + tail))
    assert not page.exception
    table = page.dataframe[0].value
    assert list(table.path) == ["(no name)", "y.png"]
    assert table.verdict[1] == "Pneumonia unlikely"


def test_a_picture_with_an_archive_at_its_end_is_scored_as_the_picture(page):
    for tail in (b"PK\5\6" + bytes(18), archive({"photograph.png": png(PHOTOGRAPH)})):
        upload(page, "film.png", NORMAL + tail)
        assert not page.exception
        assert page.subheader[0].value.startswith("Pneumonia unlikely")
        next(button for button in page.button if button.label == "Close film").click().run()


def test_names_are_shown_without_control_characters(page):
    upload(page, "films.zip", archive({"a\x1b[31m\u202egnp.png": NORMAL, "<b>*b*.png": NORMAL}))
    assert list(page.dataframe[0].value.path) == ["a\\x1b[31m\\u202egnp.png", "<b>*b*.png"]


def test_a_film_that_meets_an_error_of_the_program_is_a_row(page, monkeypatch, caplog):
    score = batch.score_film

    def fail(classifier, name, *args):
        if name == "Doe.png":
            raise KeyError("Doe^Jane")
        return score(classifier, name, *args)

    monkeypatch.setattr(batch, "score_film", fail)
    with caplog.at_level(logging.ERROR):
        upload(page, "films.zip", archive({"Doe.png": NORMAL, "b.png": NORMAL}))
        page.checkbox[0].check().run()
    assert not page.exception
    table = page.dataframe[0].value.set_index("path")
    assert table.verdict["b.png"] == "Pneumonia unlikely"
    assert "KeyError" in table.error["Doe.png"]
    assert "Doe" not in table.error["Doe.png"]
    logged = [record.getMessage() for record in caplog.records if record.name == "cxr"]
    assert logged == ["A film could not be scored, because of an unexpected KeyError."]


def test_rows_that_failed_for_the_machine_are_scored_again(page, monkeypatch):
    def fail(*args):
        raise InvalidImageError(NO_PROCESS, is_temporary=True)

    with monkeypatch.context() as broken:
        broken.setattr("cxr.rows.read_film", fail)
        upload(page, "films.zip", archive({"a.png": NORMAL, "b.png": png(PHOTOGRAPH)[:50]}))
        assert all(NO_PROCESS in error for error in page.dataframe[0].value.error)
    page.run()
    table = page.dataframe[0].value.set_index("path")
    assert table.verdict["a.png"] == "Pneumonia unlikely"
    assert NO_PROCESS not in table.error["b.png"]


def test_a_session_keeps_the_rows_of_one_batch(page):
    upload(page, "films.zip", archive({"a.png": NORMAL, "b.png": png(PHOTOGRAPH)}))
    assert len(page.session_state.page_state.rows) == 2
    show_sample(page, "normal_1")
    upload(page, "others.zip", archive({"c.png": NORMAL}))
    assert [row["path"] for row in page.session_state.page_state.rows.values()] == ["c.png"]


def test_the_table_rounds_no_probability_across_the_threshold(page, monkeypatch):
    score = batch.score_film

    def score_closely(classifier, *args):
        row, *rest = score(classifier, *args)
        return Scored(row | {"probability": classifier.card.threshold - 0.0004}, *rest)

    monkeypatch.setattr(batch, "score_film", score_closely)
    upload(page, "films.zip", archive({"a.png": NORMAL}))
    threshold = Classifier.load("int8").card.threshold
    assert list(page.dataframe[0].value.probability) == [f"{threshold - 0.0004:.4f}"]


def test_of_many_members_the_first_are_taken_without_listing_the_others(page, monkeypatch):
    monkeypatch.setattr(batch, "MAX_FILMS", 3)
    taken = []

    def unpack_and_count(sources):
        for source in unpack(sources):
            taken.append(source.name)
            yield source

    monkeypatch.setattr(batch, "unpack", unpack_and_count)
    upload(page, "films.zip", archive({f"{i}.png": NORMAL for i in range(9)}))
    assert not page.exception
    assert "Received more than 3 files; the first 3 are scored." in page.warning[0].value
    assert len(page.dataframe[0].value) == 3
    assert taken == ["0.png", "1.png", "2.png", "3.png"]


def test_films_are_sorted_and_stepped_through(page):
    names = ["pneumonia_1", "normal_1", "uncertain", "pneumonia_2"]
    members = {f"{name}.png": (SAMPLES / f"{name}.png").read_bytes() for name in names}
    upload(page, "films.zip", archive(members | {"notes.txt": b"no film"}))
    table = page.dataframe[0].value
    assert list(table.path) == [*members, "notes.txt"]
    page.selectbox(key="batch_order").set_value("Most likely first").run()
    table = page.dataframe[0].value
    assert list(table.path)[-3:] == ["uncertain.png", "normal_1.png", "notes.txt"]
    page.selectbox(key="batch_order").set_value("Most doubtful first").run()
    order = list(page.dataframe[0].value.path)
    assert order[0] == "uncertain.png"
    assert order[-1] == "notes.txt"

    def step(label: str):
        next(button for button in page.button if button.label == label).click().run()
        assert not page.exception
        return next(c.value for c in page.caption if c.value.startswith("Film "))

    state = page.session_state.page_state
    state.picked = next(key for (key, _), row in state.rows.items() if row["path"] == "uncertain.png")
    page.run()
    assert page.subheader[1].value.startswith("Pneumonia")
    assert "Uncertain" in page.subheader[1].value
    assert step("Next film") == "Film 2 of 5"
    assert "Uncertain" not in page.subheader[1].value
    assert step("Previous film") == "Film 1 of 5"
    assert "Uncertain" in page.subheader[1].value


def test_the_last_of_several_uploads_is_shown(page):
    upload(page, "first.png", NORMAL)
    assert page.subheader[0].value.startswith("Pneumonia unlikely")
    page.file_uploader[0].set_value(
        [("first.png", NORMAL, "image/png"),
         ("second.png", (SAMPLES / "pneumonia_1.png").read_bytes(), "image/png")]
    ).run()  # fmt: skip
    assert not page.exception
    assert page.subheader[0].value == "1 of 2 films: pneumonia likely"
    assert page.subheader[1].value.startswith("Pneumonia likely")
