"""The verdict: label, probability, threshold, and what they mean."""

from __future__ import annotations

import altair as alt
import pandas as pd
import streamlit as st

from cxr import ModelCard, Prediction


def show(prediction: Prediction, card: ModelCard) -> None:
    """The verdict, its probability and the threshold: what one look gives."""
    is_positive = prediction.label == card.labels[1]
    verdict = "Pneumonia likely" if is_positive else "Pneumonia unlikely"
    st.subheader(f"{verdict} &ensp; {format_probability(prediction.probability)}", anchor=False)
    st.altair_chart(_draw_bar(prediction.probability, card.threshold))


def format_probability(probability: float) -> str:
    """Two digits, and no claim of certainty at either end."""
    if probability > 0.99:
        return "over 0.99"
    if probability < 0.01:
        return "under 0.01"
    return f"{probability:.2f}"


def explain(prediction: Prediction, card: ModelCard) -> None:
    """What the number means, and how good it has been."""
    is_positive = prediction.label == card.labels[1]
    side = "reaches" if is_positive else "stays below"
    test = card.metrics["test"]
    st.markdown(
        f"The calibrated probability {side} the threshold of {card.threshold:.2f}. It assumes that "
        f"{card.prevalence:.0%} of the films show pneumonia; where fewer do, the true chance is lower."
    )
    st.markdown(
        f"At this threshold the model found {test['sensitivity']['value']:.0%} of the films with "
        f"pneumonia and cleared {test['specificity']['value']:.0%} of the normal ones among "
        f"{test['films']} films of other children of the same hospital (the official test split)."
    )
    st.caption(
        "The model learned from children of 1 to 5 years, of one hospital. On films from elsewhere, and "
        "on adults, its score is worth little."
    )


def _draw_bar(probability: float, threshold: float) -> alt.LayerChart:
    values = pd.DataFrame(
        {"probability": [probability], "threshold": [threshold], "zero": [0.0], "one": [1.0]}
    )
    axis = alt.Axis(title="probability, and the threshold", values=[0, 0.5, 1], grid=False)
    x = alt.X("zero", scale=alt.Scale(domain=[0, 1]), axis=axis)
    track = alt.Chart(values).mark_bar(size=14, opacity=0.25, color="#7a8a99").encode(x=x, x2="one")
    bar = alt.Chart(values).mark_bar(size=14, color="#0f7b8a").encode(x=x, x2="probability")
    tick = alt.Chart(values).mark_tick(size=30, thickness=3, color="#d9722e").encode(x="threshold")
    return alt.layer(track, bar, tick).properties(height=90)
