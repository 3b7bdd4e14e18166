"""The page through streamlit's AppTest: every state that needs no browser."""

import io
import json
import shutil

import numpy as np
import pytest
import streamlit as st
from PIL import Image
from streamlit.testing.v1 import AppTest

import cxr
import cxr.classifier
from tests.conftest import ROOT, SAMPLES


@pytest.fixture
def page() -> AppTest:
    return AppTest.from_file(str(ROOT / "streamlit_app" / "app.py"), default_timeout=60).run()


def upload(page: AppTest, name: str, data: bytes) -> AppTest:
    page.file_uploader[0].upload(name, data, "image/png")
    return page.run()


def test_first_visit_explains_itself(page):
    assert not page.exception
    assert "Not for medical use" in page.header[0].value
    assert "Drop a film or click a sample" in page.info[0].value
    assert not page.subheader


@pytest.mark.parametrize(
    ("sample", "verdict"),
    [
        ("normal_1.png", "Pneumonia unlikely"),
        ("normal_2.png", "Pneumonia unlikely"),
        ("pneumonia_1.png", "Pneumonia likely"),
        ("pneumonia_2.png", "Pneumonia likely"),
    ],
)
def test_samples(page, sample, verdict):
    page.button(key=sample).click().run()
    assert not page.exception
    assert page.subheader[0].value.startswith(verdict)
    assert "from file to picture" in page.subheader[1].value
    text = " ".join(m.value for m in page.markdown)
    assert "threshold of 0.50" in text
    assert "warm runs" in text


def test_upload_and_back_to_a_sample(page):
    upload(page, "film.png", (SAMPLES / "pneumonia_2.png").read_bytes())
    assert not page.exception
    assert page.subheader[0].value.startswith("Pneumonia likely")
    page.button(key="normal_1.png").click().run()
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
    page.button(key="normal_1.png").click().run()
    assert not page.error
    assert page.subheader


def test_an_uncertain_film_is_said_to_be_one(tmp_path, monkeypatch):
    """With a card whose band is all of 0..1."""
    for name in cxr.classifier.MODEL_NAMES:
        model = cxr.classifier.find_model(name)
        shutil.copy(model, tmp_path)
        card = json.loads(model.with_suffix(".json").read_text()) | {"uncertain": [0.0, 1.0]}
        (tmp_path / model.name).with_suffix(".json").write_text(json.dumps(card))
    monkeypatch.setattr(cxr.classifier, "MODELS_DIR", tmp_path)
    st.cache_resource.clear()
    page = AppTest.from_file(str(ROOT / "streamlit_app" / "app.py"), default_timeout=60).run()
    page.button(key="pneumonia_1.png").click().run()
    st.cache_resource.clear()
    assert not page.exception
    assert "Uncertain" in page.subheader[0].value
    assert any("not to be relied on" in " ".join(m.value.split()) for m in page.markdown)


def test_the_cause_is_told_of_pneumonia_alone(page):
    page.button(key="pneumonia_1.png").click().run()
    assert any("a virus has a probability of" in m.value for m in page.markdown)
    page.button(key="normal_1.png").click().run()
    assert not any("virus" in m.value for m in page.markdown)


def test_what_the_score_is_worth_elsewhere_is_said(page):
    page.button(key="pneumonia_1.png").click().run()
    elsewhere = cxr.Classifier.load("int8").card.metrics["elsewhere"]
    said = " ".join(c.value for c in page.caption)
    assert f"On {elsewhere['films']} films from elsewhere" in said
    assert f"the AUROC is {elsewhere['auroc']['value']:.2f}" in said


def test_model_and_thread_choice(page):
    page.button(key="pneumonia_1.png").click().run()
    page.radio(key="model").set_value("float32")
    page.radio(key="threads").set_value(2).run()
    assert not page.exception
    assert any("2 threads" in m.value for m in page.markdown)
    assert any("float32" in m.value for m in page.sidebar.markdown)


def test_opacity(page):
    page.button(key="pneumonia_1.png").click().run()

    drawn = page.image[-1].value
    page.slider(key="opacity").set_value(0).run()
    assert not page.exception
    assert page.image[-1].value != drawn  # addresses are hashes of the picture
    page.slider(key="opacity").set_value(60).run()
    assert page.image[-1].value == drawn


def test_comparison(page):
    page.button(key="pneumonia_1.png").click().run()
    page.toggle(key="compare").set_value(True).run()
    assert not page.exception
    table = page.sidebar.table[0].value
    assert list(table.columns) == ["int8", "float32"]
    assert list(table.index) == ["size", "probability", "median", "p95"]
    for name in ("int8", "float32"):
        classifier = cxr.Classifier.load(name)
        prediction = classifier.predict(cxr.read_image(SAMPLES / "pneumonia_1.png"))
        assert float(table.loc["probability", name]) == pytest.approx(prediction.probability, abs=1e-3)
        assert table.loc["size", name] == f"{classifier.card.size_bytes / 1e6:.1f} MB"
        assert float(table.loc["median", name].removesuffix(" ms")) > 0


def test_model_facts_come_from_the_card(page):
    card = cxr.classifier.Classifier.load("int8").card
    table = page.sidebar.table[0].value
    auroc = card.metrics["test"]["auroc"]
    assert table.loc["auroc"].item().startswith(f"{auroc['value']:.3f}")


def test_a_missing_model_gets_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(cxr.classifier, "MODELS_DIR", tmp_path)
    st.cache_resource.clear()
    page = AppTest.from_file(str(ROOT / "streamlit_app" / "app.py"), default_timeout=60).run()
    assert not page.exception
    assert "The model cannot be used. Received the model pneumonia_int8" in page.error[0].value
