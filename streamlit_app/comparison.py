"""Compare float32 and int8 on one film: scores, distributions of latency, and evidence side by side."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from cxr import Classifier, Latency, ModelCard, Prediction, overlay_evidence
from cxr.classifier import MODEL_NAMES
from cxr.novelty import REFUSED, TYPICAL
from cxr.rounding import format_number
from streamlit_app.charts import draw_runs
from streamlit_app.latency import measure
from streamlit_app.sidebar import load_model
from streamlit_app.state import COMPARE, ShownFilm
from streamlit_app.viewer import shrink

EVIDENCE_PX = 512


def show(film: ShownFilm, num_threads: int) -> None:
    """Compare both models on this film, if the visitor asks for it.

    Raises:
        InvalidModelError: if one of them cannot be used.
    """
    if not st.sidebar.toggle("Compare float32 and int8 on this film", key=COMPARE):
        return
    classifiers = [load_model(name, num_threads).classifier for name in MODEL_NAMES]
    predictions = [classifier.predict(film.pixels) for classifier in classifiers]
    times, _ = measure(classifiers, film, predictions[0])
    with st.sidebar:
        _show_numbers(classifiers, predictions, times)
    st.subheader("Evidence, int8 and float32", anchor=False)
    pixels = shrink(film.pixels, EVIDENCE_PX)
    for column, classifier, prediction in zip(
        st.columns(len(classifiers), gap="large"), classifiers, predictions, strict=True
    ):
        card = classifier.card
        picture = pixels
        if prediction.screening != REFUSED:  # there it means nothing
            picture = overlay_evidence(pixels, prediction.evidence, card.evidence_scale)
        caption = f"{card.variant}: probability {_tell(prediction, card)}"
        if prediction.screening not in (None, TYPICAL):
            caption += f" ({prediction.screening})"
        column.image(picture, caption=caption, width="stretch", alt=f"Evidence of {card.variant}")


def _tell(prediction: Prediction, card: ModelCard) -> str:
    return format_number(prediction.probability, card.threshold, *card.uncertain, least=3)


def _show_numbers(
    classifiers: Sequence[Classifier], predictions: Sequence[Prediction], times: Sequence[Latency]
) -> None:
    medians = [latency.median_ms() for latency in times]
    first, second = predictions
    told = f"int8 takes **{medians[0] / medians[1]:.2f}** of float32's time, with finding the lungs"
    if REFUSED not in (first.screening, second.screening):
        told += f", and gives {'the same' if first.label == second.label else '**another**'} verdict"
    st.markdown(f"{told}.")
    samples = {name: latency.samples_ms["both"] for name, latency in zip(MODEL_NAMES, times, strict=True)}
    st.html(draw_runs(samples, "Inference times of all runs"))
    table = pd.DataFrame(
        {
            "size": [f"{c.card.size_bytes / 1e6:.1f} MB" for c in classifiers],
            "probability": [_tell(p, c.card) for p, c in zip(predictions, classifiers, strict=True)],
            "screening": [p.screening or "none" for p in predictions],
            "median": [f"{median:.1f} ms" for median in medians],
            "p95": [f"{latency.p95_ms():.1f} ms" for latency in times],
        },
        index=pd.Index(MODEL_NAMES, name="model"),
    )
    st.table(table.T)
    st.caption(
        f"A bar ends at the median; each mark is one warm run of {times[0].runs}, of the network that "
        "finds the lungs and of the classifier. The models took turns. Both find the lungs with the same "
        "int8 network."
    )
