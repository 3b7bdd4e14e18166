"""The sidebar: the choice of a model, and facts about it."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pandas as pd
import streamlit as st

from cxr import Classifier, InvalidModelError, ModelCard
from cxr.classifier import MODEL_NAMES
from cxr.decoding import shared_pool
from streamlit_app.state import ABOUT, MODEL, THREADS

THREAD_COUNTS = (1, 2, 4)
METRICS = ("auroc", "accuracy", "sensitivity", "specificity", "precision", "f1")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A classifier, and how long its first use took in this process."""

    classifier: Classifier
    load_ms: float
    first_inference_ms: float


@st.cache_resource(show_spinner="Loading the model")
def load_model(name: str, num_threads: int) -> LoadedModel:
    """Load a shipped model, which all sessions share; several threads may call a classifier.

    Raises:
        InvalidModelError: if a model file is missing, damaged, or not the card's.
    """
    shared_pool().start()
    start = time.perf_counter()
    classifier = Classifier.load(name, num_threads)
    load_ms = (time.perf_counter() - start) * 1e3
    blank = np.zeros((classifier.card.input_size,) * 2, np.uint8)
    return LoadedModel(classifier, load_ms, classifier.predict(blank).latency_ms["inference"])


def choose() -> tuple[str, int]:
    """Show the choice of model and threads, which the address keeps, as ``load_model`` takes them."""
    with st.sidebar:
        name = st.radio("Model", MODEL_NAMES, horizontal=True, key=MODEL, bind="query-params")
        threads = st.radio("Threads", THREAD_COUNTS, horizontal=True, key=THREADS, bind="query-params")
    return name, threads


def explain_failure(error: InvalidModelError) -> None:
    """Say that the chosen model cannot be used. Only the visitor can choose another one."""
    st.error(f"The model cannot be used. {error}")
    st.markdown(
        "No film can be scored with it, and no other model answers in its place. Whoever runs this page "
        "can restore the files in `models/` from the repository; the other model may still be chosen in "
        "the sidebar, which » at the top left opens."
    )


def describe_model(classifier: Classifier) -> None:
    """Offer test metrics with intervals and the origin of the model, from its card."""
    with st.sidebar:
        _describe(classifier.card)


@st.fragment
def _describe(card: ModelCard) -> None:
    with st.expander("About the model", key=ABOUT, on_change="rerun") as about:
        if not about.open:  # then it is not computed
            return
        test = card.metrics["test"]
        rows = {
            name: f"{test[name]['value']:.3f} ({test[name]['low']:.3f} to {test[name]['high']:.3f})"
            for name in METRICS
        }
        fewer = " with fewer channels" if card.provenance["pruning"].get("keep", 1.0) < 1.0 else ""
        st.markdown(
            f"EfficientNetB0{fewer}, {card.variant}, {card.size_bytes / 1e6:.1f} MB, input "
            f"{card.input_size} x {card.input_size} px. On the {test['films']} films of the official "
            "test split, with 95 % intervals:"
        )
        st.table(pd.DataFrame({"test": rows}))
        st.markdown(f"Data: {card.provenance['data']}.")
        st.caption(f"Version {card.version}, sha256 {card.sha256[:16]}, made {card.provenance['date']}")
