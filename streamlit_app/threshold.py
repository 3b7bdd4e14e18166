"""Explore another threshold and another prevalence: what they mean in films and in children."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from cxr import ModelCard, Prediction
from cxr.rounding import format_number, format_probability
from streamlit_app.charts import Point, draw_roc
from streamlit_app.state import ELSEWHERE, EXPLORER, PREVALENCE, THRESHOLD
from streamlit_app.verdict import draw_bar, tell_threshold

SPLITS = {"test": "official test", "validation": "validation"}


@st.fragment
def explore(prediction: Prediction, card: ModelCard, bar: DeltaGenerator) -> None:
    """Show a slider that moves along the ROC curve, and one for the prevalence.

    It is a fragment: moving a slider costs no run of the page. What is closed is not computed.

    Args:
        prediction: of the film.
        card: of the model.
        bar: the place of the probability's bar, whose threshold follows.
    """
    with st.expander("Try a different threshold", key=EXPLORER, on_change="rerun") as explorer:
        if explorer.open:
            _explore_threshold(prediction, card, bar)
        else:
            draw_bar(bar, prediction, card, card.threshold)
    with st.expander(
        "Where pneumonia is rarer or more frequent", key=ELSEWHERE, on_change="rerun"
    ) as elsewhere:
        if elsewhere.open:
            _explore_prevalence(prediction, card)


def _explore_threshold(prediction: Prediction, card: ModelCard, bar: DeltaGenerator) -> None:
    start = min(max(round(100 * card.threshold), 1), 99)
    percent = st.slider("Threshold (%)", 1, 99, start, key=THRESHOLD, help="Of the probability.")
    chosen = percent / 100
    is_own = percent == start
    draw_bar(bar, prediction, card, card.threshold if is_own else chosen)
    called = "likely" if prediction.probability >= chosen else "unlikely"
    points = {split: _point(card, split, percent) for split in SPLITS}
    counts = (
        f"**{name.capitalize()}:** {count_films(card, split, *points[split])}"
        for split, name in SPLITS.items()
    )
    st.markdown(
        f"This film, with a probability of {format_probability(prediction.probability, chosen)}, "
        f"would be called **pneumonia {called}** at {format_number(chosen, prediction.probability)}. "
        f"The model's own threshold is {tell_threshold(prediction, card)}.\n\n" + "\n\n".join(counts)
    )
    curves = {name: _curve(card, split) for split, name in SPLITS.items()}
    chosen_points = {name: points[split] for split, name in SPLITS.items()}
    st.html(draw_roc(curves, chosen_points, "ROC curves with the chosen point"))


def _explore_prevalence(prediction: Prediction, card: ModelCard) -> None:
    assumed = round(100 * card.prevalence)
    share = st.slider(
        "Children with pneumonia among those who get an X-ray (%)", 1, 90, assumed, key=PREVALENCE
    )
    adjusted = adjust_prevalence(prediction.probability, card.prevalence, share / 100)
    st.markdown(
        f"Where {share}% of the children have pneumonia, **of 100 children with a film like this one "
        f"{count_children(adjusted)}**. The probability above assumes {assumed}%."
    )


def count_films(card: ModelCard, split: str, sensitivity: float, specificity: float) -> str:
    """Describe an operating point by the films of a split, in markdown."""
    metrics = card.metrics[split]
    sick, healthy = metrics["pneumonia"], metrics["films"] - metrics["pneumonia"]
    found, cleared = round(sick * sensitivity), round(healthy * specificity)
    return (
        f"{found} of {sick} films with pneumonia are found and {sick - found} missed; {cleared} of "
        f"{healthy} normal ones are cleared and {healthy - cleared} called ill."
    )


def adjust_prevalence(probability: float, assumed: float, actual: float) -> float:
    """The probability if a share ``actual`` of the children has pneumonia, not ``assumed`` (Bayes).

    Args:
        probability: 0..1, for ``assumed``.
        assumed: above 0 and below 1.
        actual: above 0 and below 1.
    """
    sick = probability * actual / assumed
    healthy = (1.0 - probability) * (1.0 - actual) / (1.0 - assumed)
    return sick / (sick + healthy)


def count_children(probability: float) -> str:
    """A probability as children out of a hundred."""
    count = round(100 * probability)
    if count in (0, 100):
        return "fewer than one has it" if count == 0 else "more than 99 have it"
    return "about 1 has it" if count == 1 else f"about {count} have it"


def _point(card: ModelCard, split: str, percent: int) -> Point:
    points = card.operating_points[split]
    at = points["threshold"].index(percent / 100)
    return points["sensitivity"][at], points["specificity"][at]


def _curve(card: ModelCard, split: str) -> list[Point]:
    points = card.operating_points[split]
    return list(zip(points["sensitivity"], points["specificity"], strict=True))
