"""The page with other models and cards, through streamlit's AppTest."""

import json
import re
import shutil

import numpy as np
import pytest
import streamlit as st
from PIL import Image
from streamlit.testing.v1 import AppTest

import cxr
import cxr.classifier
from streamlit_app.film import Source, decode
from streamlit_app.report import make_report
from tests.conftest import ROOT, SAMPLES, load_photograph, png, show_sample, upload

UNCERTAIN = np.asarray(Image.open(SAMPLES / "uncertain.png").convert("L"))
NORMAL = np.asarray(Image.open(SAMPLES / "normal_1.png").convert("L"))


def copy_models(folder, **change) -> None:
    """The shipped models with other cards."""
    for name in cxr.classifier.MODEL_NAMES:
        model = cxr.classifier.find_model(name)
        shutil.copy(model, folder)
        card = json.loads(model.with_suffix(".json").read_text()) | change
        (folder / model.name).with_suffix(".json").write_text(json.dumps(card))


@pytest.fixture
def open_with(tmp_path, monkeypatch):
    """Opens the page on models whose cards differ from the shipped ones."""

    def open_with(**change) -> AppTest:
        copy_models(tmp_path, **change)
        monkeypatch.setattr(cxr.classifier, "MODELS_DIR", tmp_path)
        st.cache_resource.clear()
        return AppTest.from_file(str(ROOT / "streamlit_app" / "app.py"), default_timeout=60).run()

    yield open_with
    st.cache_resource.clear()


def test_an_uncertain_film_is_said_to_be_one(open_with):
    """With a card whose band is all of 0..1."""
    page = open_with(uncertain=[0.0, 1.0])
    show_sample(page, "pneumonia_1")
    assert not page.exception
    assert "Uncertain" in page.subheader[0].value
    assert any("not to be relied on" in " ".join(m.value.split()) for m in page.markdown)


def test_the_cause_is_told_of_pneumonia_alone(open_with):
    page = open_with(cause={"temperature": 1.0, "offset": 0.0})
    show_sample(page, "pneumonia_1")
    said = " ".join(m.value for m in page.markdown)
    assert re.search(r"If this is pneumonia: \d+% viral, \d+% bacterial", said)
    validation = cxr.Classifier.load("int8").card.metrics["validation"]["cause_auroc"]
    assert f"its AUROC is {validation['value']:.2f}" in said
    assert "weaker than the verdict" in said
    show_sample(page, "normal_1")
    assert not any("viral" in m.value for m in page.markdown)


def test_without_a_cause_on_the_card_none_is_told(open_with):
    page = open_with(cause=None)
    show_sample(page, "pneumonia_1")
    assert not any("viral" in m.value for m in page.markdown)


def test_a_card_without_novelty_refuses_what_has_no_lungs(open_with):
    metrics = json.loads(cxr.classifier.find_model("int8").with_suffix(".json").read_text())["metrics"]
    for split in metrics.values():
        split.pop("refused", None)
        split.pop("unfamiliar", None)
    page = open_with(novelty=None, metrics=metrics)
    show_sample(page, "refused")
    assert not page.exception
    assert page.subheader[0].value.startswith("Not scored")


def test_model_and_thread_choice(page):
    show_sample(page, "pneumonia_1")
    page.session_state["about"] = True
    page.radio(key="model").set_value("float32")
    page.radio(key="threads").set_value(2).run()
    assert not page.exception
    assert any("2 threads" in m.value for m in page.markdown)
    assert any("float32" in m.value for m in page.sidebar.markdown)


def test_comparison(page):
    show_sample(page, "pneumonia_1")
    page.toggle(key="compare").set_value(True).run()
    assert not page.exception
    table = page.sidebar.table[0].value
    assert list(table.columns) == ["int8", "float32"]
    assert list(table.index) == ["size", "probability", "screening", "median", "p95"]
    for name in ("int8", "float32"):
        classifier = cxr.Classifier.load(name)
        prediction = classifier.predict(cxr.read_image(SAMPLES / "pneumonia_1.png"))
        assert float(table.loc["probability", name]) == pytest.approx(prediction.probability, abs=1e-3)
        assert table.loc["size", name] == f"{classifier.card.size_bytes / 1e6:.1f} MB"
        assert float(table.loc["median", name].removesuffix(" ms")) > 0
    (told,) = (m.value for m in page.sidebar.markdown if "of float32's time" in m.value)
    assert re.match(r"int8 takes \*\*\d\.\d\d\*\* of float32's time, .*gives the same verdict\.", told)


def test_model_facts_come_from_the_card(page):
    card = cxr.classifier.Classifier.load("int8").card
    assert not page.sidebar.table  # it is made when it is opened
    page.session_state["about"] = True
    page.run()
    table = page.sidebar.table[0].value
    auroc = card.metrics["test"]["auroc"]
    assert table.loc["auroc"].item().startswith(f"{auroc['value']:.3f}")


def test_a_missing_model_gets_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(cxr.classifier, "MODELS_DIR", tmp_path)
    st.cache_resource.clear()
    page = AppTest.from_file(str(ROOT / "streamlit_app" / "app.py"), default_timeout=60).run()
    assert not page.exception
    assert "The model cannot be used. Received the model pneumonia_int8" in page.error[0].value


@pytest.mark.parametrize("damage", ["truncated", "swapped", "wrong hash"])
def test_a_damaged_model_gets_a_page_and_no_other_answers(tmp_path, monkeypatch, damage):
    for name in cxr.classifier.MODEL_NAMES:
        model = cxr.classifier.find_model(name)
        shutil.copy(model, tmp_path)
        shutil.copy(model.with_suffix(".json"), tmp_path)
    broken = tmp_path / "pneumonia_int8.tflite"
    if damage == "truncated":
        broken.write_bytes(broken.read_bytes()[:100_000])
    elif damage == "swapped":
        shutil.copy(tmp_path / "pneumonia_float32.tflite", broken)
    else:
        broken.write_bytes(broken.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(cxr.classifier, "MODELS_DIR", tmp_path)
    st.cache_resource.clear()
    page = AppTest.from_file(str(ROOT / "streamlit_app" / "app.py"), default_timeout=60).run()
    assert not page.exception
    assert "The model cannot be used. Received pneumonia_int8.tflite" in page.error[0].value
    assert any("no other model answers in its place" in m.value for m in page.markdown)
    assert not page.subheader
    page.radio(key="model").set_value("float32").run()  # the visitor's own choice
    st.cache_resource.clear()
    assert not page.error
    assert page.info  # which says what a first visitor can do


@pytest.mark.parametrize("step", [-4e-4, 0, 4e-4])
def test_no_probability_is_rounded_across_the_threshold(tmp_path, monkeypatch, step):
    """A threshold just above, at and just below the probability of a film."""
    probability = cxr.Classifier.load("int8").predict(UNCERTAIN).probability
    threshold = probability - step
    copy_models(tmp_path, threshold=threshold, uncertain=[threshold, threshold])
    monkeypatch.setattr(cxr.classifier, "MODELS_DIR", tmp_path)
    st.cache_resource.clear()
    page = AppTest.from_file(str(ROOT / "streamlit_app" / "app.py"), default_timeout=60).run()
    show_sample(page, "uncertain")
    page.toggle(key="compare").set_value(True).run()
    st.cache_resource.clear()
    assert not page.exception
    verdict = page.subheader[0].value
    shown = float(re.search(r"(\d\.\d+)", verdict)[1])
    text = next(m.value for m in page.markdown if "The calibrated probability" in m.value)
    limit = float(re.search(r"threshold of (\d\.\d+)", text)[1])
    assert (shown >= limit) == verdict.startswith("Pneumonia likely") == ("reaches" in text)
    assert (shown == limit) == (step == 0)
    compared = float(page.sidebar.table[0].value.loc["probability", "int8"])
    assert step == 0 or (compared >= limit) == (shown >= limit)  # it has three decimals
    shown_film = decode(Source("film", "slow report", (SAMPLES / "uncertain.png").read_bytes))
    classifier = cxr.Classifier.load("int8")
    html = make_report(shown_film, classifier.predict(shown_film.pixels), classifier.card)
    told = float(re.search(r"probability (\d\.\d+)", html)[1])
    threshold_told = float(re.search(r"Threshold</th><td>(\d\.\d+)", html)[1])
    assert (told >= threshold_told) == (shown >= limit)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.996},
        {"novelty": None},
        {"cause": None},
        {"metrics": None},
    ],
)
def test_a_card_that_lacks_something_still_makes_a_page(tmp_path, monkeypatch, change):
    for name in cxr.classifier.MODEL_NAMES:
        model = cxr.classifier.find_model(name)
        shutil.copy(model, tmp_path)
        card = json.loads(model.with_suffix(".json").read_text())
        if "metrics" in change:
            change = {"metrics": {k: v for k, v in card["metrics"].items() if k != "external"}}
        (tmp_path / model.name).with_suffix(".json").write_text(json.dumps(card | change))
    monkeypatch.setattr(cxr.classifier, "MODELS_DIR", tmp_path)
    st.cache_resource.clear()
    page = AppTest.from_file(str(ROOT / "streamlit_app" / "app.py"), default_timeout=60).run()
    for pixels in (NORMAL, 255 - NORMAL, load_photograph()):
        upload(page, "film.png", png(pixels))
        assert not page.exception
    st.cache_resource.clear()


def test_a_comparison_without_the_other_model_gets_a_sentence(tmp_path, monkeypatch):
    model = cxr.classifier.find_model("int8")
    shutil.copy(model, tmp_path)
    shutil.copy(model.with_suffix(".json"), tmp_path)
    monkeypatch.setattr(cxr.classifier, "MODELS_DIR", tmp_path)
    st.cache_resource.clear()
    page = AppTest.from_file(str(ROOT / "streamlit_app" / "app.py"), default_timeout=60).run()
    show_sample(page, "normal_1")
    page.toggle(key="compare").set_value(True).run()
    st.cache_resource.clear()
    assert not page.exception
    assert page.subheader[0].value.startswith("Pneumonia unlikely")
    assert "The comparison is not possible. Received the model pneumonia_float32" in page.error[0].value


def test_cold_times_belong_to_the_model_and_thread_count(page):
    show_sample(page, "pneumonia_1")
    text = " ".join(m.value for m in page.markdown)
    assert "First use of this model and thread count" in text
    assert "when this server started" not in text
