"""The threshold explorer: what another operating point would mean for a hundred children."""

from __future__ import annotations

import altair as alt
import pandas as pd
import streamlit as st

from cxr import ModelCard, Prediction
from cxr.rounding import format_number, format_probability
from streamlit_app.state import THRESHOLD
from streamlit_app.verdict import tell_threshold

SPLITS = {"test": "official test", "validation": "validation"}
COLORS = ("#0f7b8a", "#7a8a99")


def explore(prediction: Prediction, card: ModelCard) -> None:
    """A slider that moves along the ROC curve, and its consequence in children."""
    start = min(max(round(100 * card.threshold), 1), 99)
    with st.expander("What if the threshold were another?"):
        percent = st.slider("Threshold (%)", 1, 99, start, key=THRESHOLD, help="Of the probability.")
        points = {split: _point(card, split, percent) for split in SPLITS}
        st.markdown(count_children(card, *points["test"]))
        chosen = percent / 100
        called = "pneumonia" if prediction.probability >= chosen else "normal"
        st.markdown(
            f"This film, with a probability of {format_probability(prediction.probability, chosen)}, "
            f"would be called **{called}** at {format_number(chosen, prediction.probability)}. On the "
            f"validation patients this threshold gives a sensitivity of {points['validation'][0]:.1%} "
            f"and a specificity of {points['validation'][1]:.1%}; the model's own threshold of "
            f"{tell_threshold(prediction, card)} was chosen there."
        )
        st.altair_chart(_draw_roc(card, points), alt="ROC curves with the chosen point")


def count_children(card: ModelCard, sensitivity: float, specificity: float) -> str:
    """What an operating point does to a hundred children like those of the test split, in markdown."""
    test = card.metrics["test"]
    sick = round(100 * test["pneumonia"] / test["films"])
    hits, alarms = round(sick * sensitivity), round((100 - sick) * (1 - specificity))
    return (
        f"Of 100 children like those in the test set, {sick} have pneumonia: **{hits} are found, "
        f"{sick - hits} missed**. Of the {100 - sick} without, **{alarms} are called ill** and "
        f"{100 - sick - alarms} cleared."
    )


def _point(card: ModelCard, split: str, percent: int) -> tuple[float, float]:
    points = card.operating_points[split]
    at = points["threshold"].index(percent / 100)
    return points["sensitivity"][at], points["specificity"][at]


def _draw_roc(card: ModelCard, points: dict[str, tuple[float, float]]) -> alt.LayerChart:
    curves = pd.concat(
        pd.DataFrame(card.operating_points[split]).assign(films=name) for split, name in SPLITS.items()
    )
    chosen = pd.DataFrame(
        [
            {"films": name, "sensitivity": points[split][0], "specificity": points[split][1]}
            for split, name in SPLITS.items()
        ]
    )
    axis = alt.Axis(values=[0.6, 0.7, 0.8, 0.9, 1.0], format=".1f")
    x = alt.X("specificity", axis=axis, scale=alt.Scale(domain=[0.6, 1.0], reverse=True, clamp=True))
    y = alt.Y("sensitivity", axis=axis, scale=alt.Scale(domain=[0.6, 1.0], clamp=True))
    color = alt.Color(
        "films",
        sort=list(SPLITS.values()),
        scale=alt.Scale(range=COLORS),
        legend=alt.Legend(orient="top", title=None),
    )
    tooltip = [alt.Tooltip(name, format=".3f") for name in ("sensitivity", "specificity")]
    line = alt.Chart(curves, height=240).mark_line().encode(x=x, y=y, color=color, order="threshold")
    point = (
        alt.Chart(chosen)
        .mark_point(size=110, filled=True, opacity=1)
        .encode(x=x, y=y, color=color, tooltip=["films", *tooltip])
    )
    return alt.layer(line, point)
