"""The report that a visitor downloads."""

import dataclasses

import numpy as np
from PIL import Image

import cxr
import cxr.classifier
from streamlit_app.film import Source, decode
from streamlit_app.report import make_report
from tests.conftest import SAMPLES, make_dicom, save_dicom

NORMAL = np.asarray(Image.open(SAMPLES / "normal_1.png").convert("L"))


def test_the_report_holds_the_result_and_nothing_of_the_header(page):
    film = decode(Source("film", "report", lambda: save_dicom(make_dicom(NORMAL))))
    classifier = cxr.Classifier.load("int8")
    prediction = classifier.predict(film.pixels)
    html = make_report(film, prediction, classifier.card)
    assert "Not for medical use" in html
    assert "Pneumonia unlikely" in html
    assert html.count("data:image/jpeg;base64,") == 2
    assert "src=" in html and "http" not in html
    for fact in (classifier.card.sha256, film.digest, classifier.card.name):
        assert fact in html
    for secret in ("Doe", "Jane", "4711"):
        assert secret not in html
    refused = dataclasses.replace(prediction, screening="refused", uncertain=True)
    told = dataclasses.replace(film, was_inverted=True, notes=("Text is burned in.",))
    marked = make_report(told, refused, classifier.card)
    for mark in (
        "This does not look like a frontal chest X-ray, scored on request",
        "Uncertain",
        "inverted at the visitor",
        "Text is burned in.",
    ):
        assert mark in marked
        assert mark not in html
    inverted = dataclasses.replace(prediction, looks_inverted=True, screening="refused")
    assert "looks inverted, scored on request" in make_report(film, inverted, classifier.card)
    assert "looks inverted" not in html
