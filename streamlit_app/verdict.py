"""Show the verdict: label, probability, threshold, and what they mean."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from cxr import ModelCard, Prediction
from cxr.novelty import REFUSED
from cxr.rounding import format_number, format_probability
from streamlit_app.charts import draw_probability
from streamlit_app.intake import announce
from streamlit_app.screening import MARKS, name_external

SCOPE = "Judged: pneumonia only, in children of 1 to 5 years."


def show(prediction: Prediction, card: ModelCard, film: str) -> DeltaGenerator:
    """Show the verdict, its probability and the threshold, to be seen at a glance. ``film`` is the digest
    of its film.

    Returns:
        The place of the bar.
    """
    verdict, probability = tell_verdict(prediction, card), tell_probability(prediction, card)
    marks = ["Uncertain"] if prediction.uncertain else []
    if prediction.screening in MARKS:
        marks.append(MARKS[prediction.screening])
    said, color = f"{verdict} &ensp; {probability}", "orange"
    if prediction.screening == REFUSED:
        said, color = f":gray[{said}]", "red"
    st.subheader(" &ensp; ".join([said, *(f":{color}-badge[{m}]" for m in marks)]), anchor=False)
    announce(", ".join([verdict, f"probability {probability}", *map(str.lower, marks)]), film)
    bar = st.empty()
    draw_bar(bar, prediction, card, card.threshold)
    st.caption(SCOPE)
    return bar


def draw_bar(place: DeltaGenerator, prediction: Prediction, card: ModelCard, threshold: float) -> None:
    """Draw the probability, a threshold and the uncertain band in ``place``."""
    text = (
        f"Probability {tell_probability(prediction, card)} on a bar from 0 to 1, threshold "
        f"{format_number(threshold, prediction.probability, 0, 1)}"
    )
    place.html(draw_probability(prediction.probability, threshold, card.uncertain, text))


def tell_verdict(prediction: Prediction, card: ModelCard) -> str:
    """The verdict in words."""
    return tell_label(prediction.label, card)


def tell_briefly(label: str, screening: str | None, card: ModelCard) -> str:
    """One of the card's labels, for below a thumbnail: in one word, unless the film is refused."""
    word = tell_label(label, card).removeprefix("Pneumonia ")
    return f"refused: {word}" if screening == REFUSED else word


def tell_label(label: str, card: ModelCard) -> str:
    """One of the card's labels in words."""
    return "Pneumonia likely" if label == card.labels[1] else "Pneumonia unlikely"


def tell_probability(prediction: Prediction, card: ModelCard) -> str:
    """The probability, never rounded across the threshold or an end of the uncertain band."""
    return format_probability(prediction.probability, card.threshold, *card.uncertain)


def tell_threshold(prediction: Prediction, card: ModelCard) -> str:
    """The threshold, with enough decimals to tell it from the probability."""
    return format_number(card.threshold, prediction.probability, 0, 1)


def explain(prediction: Prediction, card: ModelCard) -> None:
    """Explain what the number means, and how good the model was in tests."""
    is_positive = prediction.label == card.labels[1]
    side = "reaches" if is_positive else "stays below"
    test, validation = card.metrics["test"], card.metrics["validation"]
    told = []
    if prediction.uncertain:
        low, high = (format_number(limit, prediction.probability) for limit in card.uncertain)
        told.append(
            f"**Uncertain:** it lies between {low} and {high}, where the model is not to be "
            f"relied on. Outside of that band were {test['coverage']['value']:.0%} of the test films, "
            f"and {test['selective_accuracy']['value']:.1%} of those were called right."
        )
    told.append(
        f"The calibrated probability {side} the threshold of {tell_threshold(prediction, card)}. It "
        f"assumes that {card.prevalence:.0%} of the films show pneumonia; where fewer do, the true "
        "chance is lower."
    )
    told.append(
        f"At this threshold the model found {test['sensitivity']['value']:.0%} of the films with "
        f"pneumonia and cleared {test['specificity']['value']:.0%} of the normal ones among "
        f"{test['films']} films of other children of the same hospital (the official test split); on the "
        f"validation patients, whom it is calibrated on, {validation['sensitivity']['value']:.0%} and "
        f"{validation['specificity']['value']:.0%}."
    )
    if prediction.viral_probability is not None:
        cause, held_out = (card.metrics[split]["cause_auroc"] for split in ("test", "validation"))
        told.append(
            f"If this is pneumonia: {prediction.viral_probability:.0%} viral, "
            f"{1.0 - prediction.viral_probability:.0%} bacterial, assuming both are equally common. This "
            f"second answer is weaker than the verdict: its AUROC is {held_out['value']:.2f} "
            f"({held_out['low']:.2f} to "
            f"{held_out['high']:.2f}) on the validation patients, who decide whether it is shown at all "
            f"(the lower end must reach 0.75), and {cause['value']:.2f} ({cause['low']:.2f} to "
            f"{cause['high']:.2f}) on the test films with pneumonia."
        )
    st.markdown("\n\n".join(told))
    st.caption(f"The model learned from children of 1 to 5 years in one hospital. {tell_external(card)}")


def tell_external(card: ModelCard) -> str:
    """Say how good the model is on films of another hospital."""
    if not card.metrics.get("external"):
        return "It has not been measured on films from other hospitals, or on adults."
    metrics = card.metrics["external"]
    auroc, sensitivity, specificity = (metrics[k] for k in ("auroc", "sensitivity", "specificity"))
    return (
        f"On {metrics['films']} {name_external(card)} it finds {sensitivity['value']:.0%} of those with "
        f"pneumonia and wrongly flags {1.0 - specificity['value']:.0%} of those without (AUROC "
        f"{auroc['value']:.2f}, {auroc['low']:.2f} to {auroc['high']:.2f})."
    )
