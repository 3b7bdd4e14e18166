"""CXR Lite in one page. Start it with ``streamlit run streamlit_app/app.py``."""

import dataclasses
import sys
from pathlib import Path

import streamlit as st

ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:  # streamlit adds only this folder
    sys.path.insert(0, ROOT)

from cxr import InvalidImageError, InvalidModelError
from streamlit_app import (
    batch,
    comparison,
    film,
    intake,
    latency,
    report,
    screening,
    sidebar,
    threshold,
    verdict,
    viewer,
    what_if,
)

has_film = film.is_chosen()  # else the page is narrow and without sidebar, as it is drawn before a run
st.set_page_config(
    "CXR Lite: pneumonia on chest films",
    layout="wide" if has_film else "centered",
    initial_sidebar_state="auto" if has_film else "collapsed",
)
name, num_threads = sidebar.choose()  # first: a sidebar that comes later moves what is there before it
st.html(  # captions with enough contrast (WCAG AA); no room for what only screen readers get
    "<style>[data-testid=stCaptionContainer] { color: inherit; opacity: 0.8 }"
    ".st-key-announcer { display: none }</style>"
)
if has_film:
    st.html("<style>.stMainBlockContainer { padding-top: 2.5rem }</style>")  # more of the film is seen
st.title("CXR Lite &ensp; :orange-badge[Not for medical use]", anchor=False)
st.markdown(
    "Upload a child's chest X-ray. See how likely pneumonia is, which lung regions drove the score, and "
    "how long it took."
)

try:
    model = sidebar.load_model(name, num_threads)
except InvalidModelError as error:
    sidebar.explain_failure(error)
    st.stop()
classifier = model.classifier

sources, anyway = film.choose(), False
is_batch = batch.is_many(sources)
if is_batch:
    source, anyway = batch.show(sources, classifier)
else:
    source = sources[0] if sources else None
    if source is None:
        film.explain(classifier)
if source is None:
    intake.announce("")  # what was said of a film before no longer holds
    sidebar.describe_model(classifier)
    st.stop()

try:
    chest_film = screening.as_shown(film.decode(source))
except InvalidImageError as error:
    st.error(f"This file cannot be scored. {error}")
    intake.announce("This file cannot be scored", source.key)
    sidebar.describe_model(classifier)
    st.stop()

prediction = classifier.predict(chest_film.pixels)
screening.show(prediction, chest_film, classifier, anyway)
if not screening.admits(prediction, chest_film, anyway):
    screening.refuse(prediction, chest_film, classifier.card)
    sidebar.describe_model(classifier)
    st.stop()

if is_batch and (chest_film.was_inverted or (screening.is_refused(prediction) and not anyway)):
    st.caption("The table and the CSV have this film as it was received.")
bar = verdict.show(prediction, classifier.card, chest_film.digest)
drawing = viewer.draw(chest_film, prediction, classifier.card)
film.remember(
    source, drawing.pixels, verdict.tell_briefly(prediction.label, prediction.screening, classifier.card)
)
left, right = st.columns(2, gap="large")
with left:
    small = dataclasses.replace(chest_film, pixels=drawing.pixels)  # what fragments and buttons keep
    what_if.examine(small, drawing, prediction, classifier)
    report.offer(small, prediction, classifier.card)
with right:
    if not screening.is_refused(prediction):  # test figures say nothing about such an image
        verdict.explain(prediction, classifier.card)
        threshold.explore(prediction, classifier.card, bar)
    (measured,), is_alone = latency.measure([classifier], chest_film, prediction)
    latency.show(prediction, measured, is_alone, model, chest_film.decode_ms, drawing.draw_ms)
try:
    comparison.show(chest_film, classifier.num_threads)
except InvalidModelError as error:
    st.sidebar.error(f"The comparison is not possible. {error}")
sidebar.describe_model(classifier)
