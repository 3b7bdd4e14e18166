"""The page through streamlit's AppTest: every state that needs no browser."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

import cxr
import cxr.classifier
from cxr.decoding import NO_PROCESS
from cxr.explanation import outline_lungs
from cxr.lungs import Lungs
from streamlit_app import film, latency, viewer
from tests.conftest import (
    ROOT,
    SAMPLES,
    load_photograph,
    make_dicom,
    png,
    save_dicom,
    show_sample,
    upload,
)

PHOTOGRAPH = load_photograph()
SICK = np.asarray(Image.open(SAMPLES / "pneumonia_1.png").convert("L"))
NORMAL = np.asarray(Image.open(SAMPLES / "normal_1.png").convert("L"))


def test_first_visit_explains_itself(page):
    assert not page.exception
    assert "Not for medical use" in page.title[0].value
    assert "Drop a film, paste one, or click a sample" in page.info[0].value
    assert not page.subheader


@pytest.mark.parametrize(
    ("sample", "verdict"),
    [
        ("normal_1", "Pneumonia unlikely"),
        ("normal_2", "Pneumonia unlikely"),
        ("pneumonia_1", "Pneumonia likely"),
        ("pneumonia_2", "Pneumonia likely"),
    ],
)
def test_samples(page, sample, verdict):
    show_sample(page, sample)
    assert not page.exception
    assert page.subheader[0].value.startswith(verdict)
    assert "from file to picture" in page.subheader[1].value
    text = " ".join(m.value for m in page.markdown)
    assert "threshold of 0.50" in text
    assert "warm runs" in text


def test_the_uncertain_and_the_unfamiliar_sample_are_said_to_be_so(page):
    show_sample(page, "uncertain")
    assert "Uncertain" in page.subheader[0].value
    assert any("not to be relied on" in m.value for m in page.markdown)
    show_sample(page, "unfamiliar")
    assert not page.exception
    assert "Unfamiliar film" in page.subheader[0].value
    assert any("differs from the training films" in w.value for w in page.warning)


def test_upload_and_back_to_a_sample(page):
    upload(page, "film.png", (SAMPLES / "pneumonia_2.png").read_bytes())
    assert not page.exception
    assert page.subheader[0].value.startswith("Pneumonia likely")
    show_sample(page, "normal_1")
    assert page.subheader[0].value.startswith("Pneumonia unlikely")
    upload(page, "film.png", (SAMPLES / "pneumonia_2.png").read_bytes())
    assert page.subheader[0].value.startswith("Pneumonia likely")


def test_sixteen_bit_upload(page):
    deep = np.asarray(Image.open(SAMPLES / "pneumonia_1.png")).astype(np.uint16) * 16
    file = io.BytesIO()
    Image.fromarray(deep).save(file, "PNG")
    upload(page, "deep.png", file.getvalue())
    assert not page.exception
    assert page.subheader[0].value.startswith("Pneumonia likely")


@pytest.mark.parametrize("data", [b"", b"no image", (SAMPLES / "normal_1.png").read_bytes()[:2000]])
def test_a_bad_file_gets_a_sentence(page, data):
    upload(page, "bad.png", data)
    assert not page.exception
    assert "This file cannot be scored. Received" in page.error[0].value
    assert "accepted is" in page.error[0].value
    assert not page.subheader
    show_sample(page, "normal_1")
    assert not page.error
    assert page.subheader


def test_what_the_score_is_worth_elsewhere_is_said(page):
    show_sample(page, "pneumonia_1")
    external = cxr.Classifier.load("int8").card.metrics["external"]
    said = " ".join(c.value for c in page.caption)
    assert f"On {external['films']} adult films from the NIH it finds" in said
    assert f"wrongly flags {1 - external['specificity']['value']:.0%} of those without" in said
    assert f"AUROC {external['auroc']['value']:.2f}" in said
    assert "Judged: pneumonia only, in children of 1 to 5 years." in said


def test_a_dicom_film(page):
    film = np.asarray(Image.open(SAMPLES / "pneumonia_2.png").convert("L"))
    negative = make_dicom(255 - film, PhotometricInterpretation="MONOCHROME1")
    upload(page, "no_extension", save_dicom(negative))
    assert not page.exception
    assert page.subheader[0].value.startswith("Pneumonia likely")
    upload(page, "ct.dcm", save_dicom(make_dicom(film, Modality="CT")))
    assert not page.exception
    assert "modality CT, which is no radiograph" in page.error[0].value


def test_a_photograph_is_refused_and_can_be_scored_anyway(page):
    upload(page, "photograph.png", png(PHOTOGRAPH))
    assert not page.exception
    assert page.subheader[0].value.startswith("Not scored")
    reasons = ("differs from the training films", "a first model has found none", "not have the shape")
    assert any(reason in m.value for m in page.markdown for reason in reasons)
    next(b for b in page.button if b.label == "Score it anyway").click().run()
    assert not page.exception
    assert page.subheader[0].value.startswith(":gray[Pneumonia")
    assert "Refused film, scored anyway" in page.subheader[0].value
    assert "The score below means nothing" in page.error[0].value
    said = " ".join(m.value for m in [*page.markdown, *page.caption])
    assert "films of other children" not in said  # no test figure, cause or evidence
    assert "viral" not in said
    assert "evidence lies" not in said
    next(b for b in page.button if b.label == "Withdraw the score").click().run()
    assert page.subheader[0].value.startswith("Not scored")
    assert not page.error


def test_an_image_without_lungs_is_refused_with_that_reason(page):
    ramp = np.tile(np.arange(200, dtype=np.uint8)[:, np.newaxis], (1, 200))
    upload(page, "ramp.png", png(ramp))
    assert not page.exception
    assert page.subheader[0].value == "Not scored: no lungs were found"
    assert any("a first model has found none" in m.value for m in page.markdown)
    assert not any("seems to be" in i.value for i in page.info)  # nor is it rotated
    next(b for b in page.button if b.label == "Score it anyway").click().run()
    assert not page.exception
    assert "Refused film, scored anyway" in page.subheader[0].value


def test_a_rotated_film_and_lungs_that_are_cut_off_are_said_to_be_so(page):
    upload(page, "turned.png", png(np.ascontiguousarray(np.rot90(NORMAL))))
    assert not page.exception
    assert page.subheader[0].value == "Not scored: this film seems to be rotated to the left"
    upload(page, "cut.png", png(NORMAL[: round(0.75 * len(NORMAL))]))
    assert not page.exception
    assert any("The lungs reach the bottom" in i.value for i in page.info)
    show_sample(page, "normal_1")
    assert not page.info


def test_the_evidence_has_a_resolution(page):
    show_sample(page, "pneumonia_1")
    x0, y0, x1, y1 = cxr.Classifier.load("int8").predict(SICK).lungs.box
    height, width = SICK.shape
    cell = f"{(x1 - x0) * width / 5:.0f} x {(y1 - y0) * height / 5:.0f} px"
    assert any(f"A cell of the map covers {cell} of the film" in c.value for c in page.caption)


def test_a_negative_can_be_inverted_and_back(page):
    upload(page, "negative.png", png(255 - NORMAL))
    assert page.subheader[0].value == "Not scored: this film looks inverted"
    assert any("This film looks inverted" in m.value for m in page.markdown)
    next(b for b in page.button if b.label == "Invert the film").click().run()
    assert not page.exception
    assert page.subheader[0].value.startswith("Pneumonia unlikely")
    assert "Unfamiliar" not in page.subheader[0].value
    next(b for b in page.button if b.label == "Undo the inversion").click().run()
    assert any("This film looks inverted" in m.value for m in page.markdown)


def test_an_unfamiliar_film_is_marked(page):
    upload(page, "rotated.png", (SAMPLES / "unfamiliar.png").read_bytes())
    prediction = cxr.Classifier.load("int8").predict(cxr.read_image(SAMPLES / "unfamiliar.png"))
    assert prediction.screening == "unfamiliar"
    assert "Unfamiliar film" in page.subheader[0].value
    assert f"(novelty {prediction.novelty:.2f}, limit" in page.warning[0].value


def test_an_animation_says_that_its_first_frame_is_read(page):
    file = io.BytesIO()
    frames = [Image.fromarray(255 - NORMAL)]
    Image.fromarray(NORMAL).save(file, "WEBP", save_all=True, append_images=frames, lossless=True)
    upload(page, "film.webp", file.getvalue())
    assert any("only the first is read" in i.value for i in page.info)
    assert page.subheader[0].value.startswith("Pneumonia unlikely")


def test_deep_link_to_a_sample_and_model():
    page = AppTest.from_file(str(ROOT / "streamlit_app" / "app.py"), default_timeout=60)
    page.query_params["sample"] = "pneumonia_2"
    page.query_params["model"] = "float32"
    page.run()
    assert not page.exception
    assert page.subheader[0].value.startswith("Pneumonia likely")
    assert page.radio(key="model").value == "float32"
    show_sample(page, "normal_2")
    assert page.query_params["sample"] == "normal_2"


def test_the_pictures_are_drawn_and_timed_once(page, monkeypatch):
    page.session_state["explorer"] = True
    show_sample(page, "pneumonia_1")

    def stages():
        return next(c.value for c in page.caption if "decode" in c.value)

    first = re.search(r"draw ([\d.]+) ms", stages())[1]
    monkeypatch.setattr(viewer, "to_data_url", None)  # another drawing would fail
    page.slider(key="threshold").set_value(20).run()
    assert not page.exception
    assert re.search(r"draw ([\d.]+) ms", stages())[1] == first


def test_the_time_of_the_pictures_has_resize_and_encoding(page, monkeypatch):
    encode = viewer.to_data_url

    def encode_slowly(*args, **options):
        clock.append(1000)
        return encode(*args, **options)

    clock = []
    monkeypatch.setattr(viewer, "to_data_url", encode_slowly)
    monkeypatch.setattr(viewer.time, "perf_counter", lambda: sum(clock))
    show_sample(page, "pneumonia_1")
    told = next(c.value for c in page.caption if "decode" in c.value)
    assert re.search(r"draw ([\d.]+) ms", told)[1] == "2000000.0"  # film and evidence


def test_the_outline_is_encoded_as_it_is():
    mask = np.zeros((40, 40), np.float32)
    mask[10:30, 5:15] = 1.0
    layer = outline_lungs(Lungs(mask, (0.125, 0.25, 0.375, 0.75), (), 0), (120, 100))
    encoded = viewer.encode_outline(layer).removeprefix("data:image/png;base64,")
    decoded = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA")
    np.testing.assert_array_equal(np.asarray(decoded), layer)


def test_decoded_films_of_all_sessions_together_are_limited(monkeypatch):
    """Each page is a session; the films shown least recently are let go and decoded again when needed."""
    monkeypatch.setattr(film, "MAX_KEPT_BYTES", 2 * NORMAL.nbytes)
    pages = []
    for _ in range(3):
        page = AppTest.from_file(str(ROOT / "streamlit_app" / "app.py"), default_timeout=60).run()
        pages.append(show_sample(page, "normal_1"))
    assert [page.session_state.page_state.slot.film is None for page in pages] == [True, False, False]
    pages[0].run()
    assert pages[0].subheader[0].value.startswith("Pneumonia unlikely")
    assert [page.session_state.page_state.slot.film is None for page in pages] == [False, True, False]


def test_the_address_has_the_sample_that_is_shown(page):
    for sample in ("normal_1", "pneumonia_1"):
        show_sample(page, sample)
    page.query_params["sample"] = "normal_1"  # Back
    page.run()
    assert page.subheader[0].value.startswith("Pneumonia unlikely")
    upload(page, "film.png", (SAMPLES / "pneumonia_2.png").read_bytes())
    assert "sample" not in page.query_params
    page.query_params["sample"] = "normal_1"  # Back, from an upload
    page.run()
    assert page.subheader[0].value.startswith("Pneumonia unlikely")
    del page.query_params["sample"]  # Forward
    page.run()
    assert page.subheader[0].value.startswith("Pneumonia likely")
    next(button for button in page.button if button.label == "Close film").click().run()
    assert "Drop a film, paste one, or click a sample" in page.info[0].value


def test_the_page_names_its_limits(page):
    assert any("Up to 256 MB a session" in caption.value for caption in page.caption)
    assert page.file_uploader[0].proto.max_upload_size_mb == 64  # the browser shows it


def test_the_place_in_the_queue_is_told():
    def script():
        import streamlit as st

        from streamlit_app.film import tell_queue

        for ahead in (2, 1, 0):
            tell_queue(st.container(), ahead)

    told = [caption.value for caption in AppTest.from_function(script).run().caption]
    assert told == ["Waiting: 2 films are before yours.", "Waiting: 1 film is before yours."]


def test_a_failure_of_the_machine_is_not_kept_as_one_of_the_file(page, monkeypatch):
    def fail(*_):
        raise cxr.InvalidImageError(NO_PROCESS, is_temporary=True)

    monkeypatch.setattr("streamlit_app.film.read_film", fail)
    upload(page, "film.png", png(NORMAL))
    assert "cannot be decoded now" in page.error[0].value
    monkeypatch.undo()
    page.run()
    assert not page.error
    assert page.subheader[0].value.startswith("Pneumonia unlikely")


def test_a_comparison_colors_no_refused_film(page, monkeypatch):
    upload(page, "photograph.png", png(PHOTOGRAPH))
    next(b for b in page.button if b.label == "Score it anyway").click().run()
    monkeypatch.setattr("streamlit_app.comparison.overlay_evidence", None)
    page.toggle(key="compare").set_value(True).run()
    assert not page.exception
    assert [s.value for s in page.subheader if "int8 and float32" in s.value]


def test_while_another_film_is_measured_there_is_a_single_timed_run(page):
    with latency._turn():  # another session measures
        show_sample(page, "normal_1")
    assert not page.exception
    assert any("of 1 warm run (another film is being measured)" in m.value for m in page.markdown)
    page.run()  # such a run is not kept
    assert any(re.search(r"of \d+ warm runs", m.value) for m in page.markdown)
