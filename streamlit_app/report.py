"""A report to download: one HTML file that is complete, and that has no data of the patient."""

from __future__ import annotations

import datetime
import io
from pathlib import Path

import jinja2
import numpy as np
import streamlit as st
from PIL import Image

from cxr import ModelCard, Prediction, overlay_evidence
from cxr.novelty import REFUSED, UNFAMILIAR
from cxr.rounding import format_number
from streamlit_app.screening import tell_lungs, tell_refusal
from streamlit_app.state import SAVING, ShownFilm
from streamlit_app.verdict import SCOPE, tell_external, tell_probability, tell_threshold, tell_verdict
from streamlit_app.viewer import shrink, tell_place, tell_resolution, to_data_url

TEMPLATE = jinja2.Environment(autoescape=True).from_string(
    Path(__file__).with_name("report.html").read_text()
)


@st.fragment
def offer(film: ShownFilm, prediction: Prediction, card: ModelCard) -> None:
    """Offer the report and the picture. Both are made when the menu is opened.

    It is a fragment: opening the menu costs no run of the page. A file that Streamlit makes on a click
    belongs to no session, so it is gone when two runs of any visitors end before it is fetched.

    Args:
        film: in the size in which it is shown, because the menu keeps it.
        prediction: of the film.
        card: of the model.
    """
    with st.popover("Save", icon=":material/download:", key=SAVING, on_change="rerun") as menu:
        if menu.open:
            _offer_files(film, prediction, card)


def _offer_files(film: ShownFilm, prediction: Prediction, card: ModelCard) -> None:
    name = f"cxr_lite_{film.digest[:8]}"
    report = make_report(film, prediction, card)
    st.download_button("Download a report", report, f"{name}.html", "text/html", on_click="ignore")
    st.caption("One HTML file: film, evidence, verdict, model, limits. No file name, no DICOM header.")
    if prediction.screening != REFUSED:
        picture = make_picture(film, prediction, card)
        st.download_button("Evidence as PNG", picture, f"{name}.png", "image/png", on_click="ignore")
        st.caption("The film with the evidence over it.")


def make_picture(film: ShownFilm, prediction: Prediction, card: ModelCard) -> bytes:
    """The film with the evidence over it, as a PNG file."""
    file = io.BytesIO()
    overlay = overlay_evidence(film.pixels, prediction.evidence, card.evidence_scale)
    Image.fromarray(overlay).save(file, "PNG")
    return file.getvalue()


def make_report(film: ShownFilm, prediction: Prediction, card: ModelCard) -> str:
    """Make the report's HTML. It lacks the file name, which may name the patient."""
    pixels = shrink(film.pixels)
    height, width = film.size
    test = card.metrics["test"]
    facts = {
        "Made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "File": f"sha256 {film.digest}",
        "Threshold": tell_threshold(prediction, card)
        + "; uncertain from {} to {}".format(
            *(format_number(limit, prediction.probability) for limit in card.uncertain)
        ),
        "Prevalence assumed": f"{card.prevalence:.0%}",
        "Logit": f"{prediction.logit:.3f} before calibration",
        "Novelty": _tell_novelty(prediction, card),
        "Model": f"{card.name}, made {card.provenance['date']}",
        "Model file": f"sha256 {card.sha256}",
        "Test split": ", ".join(
            f"{name} {test[name]['value']:.3f} ({test[name]['low']:.3f} to {test[name]['high']:.3f})"
            for name in ("auroc", "sensitivity", "specificity")
        ),
        "Data": card.provenance["data"],
    }
    return TEMPLATE.render(
        verdict=tell_verdict(prediction, card),
        probability=tell_probability(prediction, card),
        marks=_list_marks(film, prediction, card),
        film=to_data_url(pixels, "JPEG", quality=90),
        overlay=_draw_overlay(pixels, prediction, card),
        was_inverted=film.was_inverted,
        width=width,
        height=height,
        resolution=tell_resolution(film, prediction, card),
        place=tell_place(prediction, card),
        rows=facts,
        limits=[
            "Not for medical use: no decision about a patient may be based on this.",
            f"{SCOPE} The model learned from children of one hospital. {tell_external(card)}",
            "The probability assumes the prevalence above; where fewer films show pneumonia, the chance "
            "is lower.",
            "The evidence shows where the score came from, not where a disease is.",
        ],
    )


def _draw_overlay(pixels: np.ndarray, prediction: Prediction, card: ModelCard) -> str | None:
    """The evidence over the film, unless the film is refused: there it means nothing."""
    if prediction.screening == REFUSED:
        return None
    return to_data_url(
        overlay_evidence(pixels, prediction.evidence, card.evidence_scale), "JPEG", quality=90
    )


def _list_marks(film: ShownFilm, prediction: Prediction, card: ModelCard) -> list[str]:
    marks = {
        "Uncertain": prediction.uncertain,
        "Unlike the films that the model learned from: the score is hardly reliable": (
            prediction.screening == UNFAMILIAR
        ),
        "Gray levels inverted at the visitor's request": film.was_inverted,
    }
    told = [mark for mark, holds in marks.items() if holds]
    if prediction.screening == REFUSED:
        reason, _ = tell_refusal(prediction, card)
        told.insert(0, f"{reason}, scored on request: the score means nothing")
    return [*told, *tell_lungs(prediction), *film.notes]


def _tell_novelty(prediction: Prediction, card: ModelCard) -> str:
    if prediction.novelty is None:
        return "not measured"
    novelty, limits = prediction.novelty, [card.novelty[name] for name in ("unfamiliar", "refused")]
    shown = [format_number(limit, novelty) for limit in limits]
    told = format_number(novelty, *limits)
    return f"{told}; 1 is usual, unfamiliar above {shown[0]}, refused above {shown[1]}"
