"""The sidebar: model choice, float32 against int8 on this film, and the model's facts."""

from __future__ import annotations

import altair as alt
import pandas as pd
import streamlit as st

from cxr import Classifier
from cxr.classifier import MODEL_NAMES
from streamlit_app.film import Film
from streamlit_app.latency import measure

THREADS = (1, 2, 4)
METRICS = ("auroc", "accuracy", "sensitivity", "specificity", "precision", "f1")


@st.cache_resource(show_spinner="Loading the model")
def load_classifier(name: str, num_threads: int) -> Classifier:
    """A shipped model, shared by all sessions; a classifier is safe to call from several threads.

    Raises:
        InvalidModelError: if a model file is missing, damaged, or not the card's.
    """
    return Classifier.load(name, num_threads)


def choose_model() -> Classifier:
    """The model and thread widgets. Returns the chosen classifier."""
    with st.sidebar:
        name = st.radio("Model", MODEL_NAMES, horizontal=True, key="model")
        threads = st.radio("Threads", THREADS, horizontal=True, key="threads")
    return load_classifier(name, threads)


def compare(film: Film) -> None:
    """Both models on this film, on demand: size, probability and latency side by side."""
    with st.sidebar:
        if not st.toggle("Compare float32 and int8 on this film", key="compare"):
            return
        classifiers = [load_classifier(name, st.session_state.threads) for name in MODEL_NAMES]
        predictions = [classifier.predict(film.pixels) for classifier in classifiers]
        times = measure(classifiers, film)
        medians = [latency.median_ms("inference") for latency in times]
        table = pd.DataFrame(
            {
                "size": [f"{c.card.size_bytes / 1e6:.1f} MB" for c in classifiers],
                "probability": [f"{p.probability:.3f}" for p in predictions],
                "median": [f"{median:.1f} ms" for median in medians],
                "p95": [f"{latency.p95_ms('inference'):.1f} ms" for latency in times],
            },
            index=pd.Index(MODEL_NAMES, name="model"),
        )
        st.table(table.T)
        chart = pd.DataFrame({"model": MODEL_NAMES, "median inference, ms": medians})
        st.altair_chart(
            alt.Chart(chart, height=150)
            .mark_bar(color="#0f7b8a")
            .encode(x="median inference, ms", y=alt.Y("model", title=None))
        )
        st.caption(
            f"int8 takes {medians[0] / medians[1]:.2f} of float32's time here; the models took turns."
        )


def describe_model(classifier: Classifier) -> None:
    """Test metrics with intervals and where the model comes from, off its card."""
    card = classifier.card
    test = card.metrics["test"]
    rows = {
        name: f"{test[name]['value']:.3f} ({test[name]['low']:.3f} to {test[name]['high']:.3f})"
        for name in METRICS
    }
    with st.sidebar, st.expander("About the model"):
        st.markdown(
            f"EfficientNetB0, {card.variant}, {card.size_bytes / 1e6:.1f} MB, input "
            f"{card.input_size} x {card.input_size} px. On the {test['films']} films of the official "
            "test split, with 95 % intervals:"
        )
        st.table(pd.DataFrame({"test": rows}))
        st.markdown(f"Data: {card.provenance['data']}.")
        st.caption(f"sha256 {card.sha256[:16]}, made {card.provenance['date']}")
