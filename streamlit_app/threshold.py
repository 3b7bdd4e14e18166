"""Explore what another threshold would mean for a hundred children."""

from __future__ import annotations

import streamlit as st

from cxr import ModelCard, Prediction
from cxr.rounding import format_number, format_probability
from streamlit_app.charts import Point, draw_roc
from streamlit_app.state import THRESHOLD
from streamlit_app.verdict import tell_threshold

SPLITS = {"test": "official test", "validation": "validation"}


def explore(prediction: Prediction, card: ModelCard) -> None:
    """Show a slider that moves along the ROC curve, and the consequence in children."""
    start = min(max(round(100 * card.threshold), 1), 99)
    with st.expander("Try a different threshold"):
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
        curves = {name: _curve(card, split) for split, name in SPLITS.items()}
        chosen_points = {name: points[split] for split, name in SPLITS.items()}
        st.html(draw_roc(curves, chosen_points, "ROC curves with the chosen point"))


def count_children(card: ModelCard, sensitivity: float, specificity: float) -> str:
    """Describe an operating point for a hundred children like those of the test split, in markdown."""
    test = card.metrics["test"]
    sick = round(100 * test["pneumonia"] / test["films"])
    hits, alarms = round(sick * sensitivity), round((100 - sick) * (1 - specificity))
    return (
        f"Of 100 children like those in the test set, {sick} have pneumonia: **{hits} are found, "
        f"{sick - hits} missed**. Of the {100 - sick} without, **{alarms} are called ill** and "
        f"{100 - sick - alarms} cleared."
    )


def _point(card: ModelCard, split: str, percent: int) -> Point:
    points = card.operating_points[split]
    at = points["threshold"].index(percent / 100)
    return points["sensitivity"][at], points["specificity"][at]


def _curve(card: ModelCard, split: str) -> list[Point]:
    points = card.operating_points[split]
    return list(zip(points["sensitivity"], points["specificity"], strict=True))
