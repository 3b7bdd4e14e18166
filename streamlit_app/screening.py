"""Say if a film is not of the kind that the model knows, and offer what the visitor can do."""

from __future__ import annotations

import dataclasses

import streamlit as st

from cxr import Classifier, ModelCard, Prediction
from cxr.novelty import REFUSED, UNFAMILIAR
from cxr.rounding import format_number
from streamlit_app.intake import announce
from streamlit_app.state import ShownFilm, get_state
from streamlit_app.viewer import show_alone

TURNS = {1: "rotated to the left", 2: "upside down", 3: "rotated to the right"}
EXTERNAL = {"nih_adults": "adult films from the NIH"}
KNOWN = "frontal chest films of children"
# what stands beside the verdict of a film that is not typical
MARKS = {REFUSED: "Refused film, scored anyway", UNFAMILIAR: "Unfamiliar film"}
LOOKS_INVERTED = "This film looks inverted: air is white in it."


def as_shown(film: ShownFilm) -> ShownFilm:
    """The film, with its gray levels inverted if the visitor requested it."""
    if film.digest not in get_state().inversion_requested:
        return film
    return dataclasses.replace(film, pixels=255 - film.pixels, was_inverted=True)


def show(prediction: Prediction, film: ShownFilm, classifier: Classifier, anyway: bool) -> None:
    """Show notes on the file, offer to invert it, and warn if the film is unfamiliar or refused. With
    ``anyway`` the visitor wants the scores of all refused films."""
    for note in (*film.notes, *tell_lungs(prediction)):
        st.info(note)
    if film.was_inverted:
        _offer(
            "You inverted the gray levels of this film.", "Undo the inversion", _withdraw_inversion, film
        )
    elif prediction.looks_inverted and classifier.predict(255 - film.pixels).screening != REFUSED:
        _offer(
            f"**{LOOKS_INVERTED}** The model learned from films whose air is black, and its score means "
            "nothing on a negative.",
            "Invert the film",
            _request_inversion,
            film,
        )
    if is_refused(prediction) and admits(prediction, film, anyway):
        reason, _ = tell_refusal(prediction, classifier.card)
        st.error(f"**The score below means nothing.** {reason}. You asked for the score anyway.")
        if not anyway:
            st.button("Withdraw the score", on_click=_withdraw_override, args=(film.digest,))
    if prediction.screening == UNFAMILIAR:
        card = classifier.card
        st.warning(
            f"**Unfamiliar film.** {_tell_novelty(prediction, card)} On such films the score is hardly "
            f"reliable{_tell_external(card)}."
        )


def is_refused(prediction: Prediction) -> bool:
    """Whether the film is refused, even if its score is shown because the visitor wants it."""
    return prediction.screening == REFUSED


def admits(prediction: Prediction, film: ShownFilm, anyway: bool) -> bool:
    """Whether the score is shown, because the film is not refused or the visitor wants it anyway."""
    return anyway or not is_refused(prediction) or film.digest in get_state().overridden


def refuse(prediction: Prediction, film: ShownFilm, card: ModelCard) -> None:
    """Show the refusal instead of a score, and a button that shows the score anyway."""
    reason, explanation = tell_refusal(prediction, card)
    title = f"Not scored: {reason[0].lower()}{reason[1:]}"
    st.subheader(title, anchor=False)
    announce(title, film.digest)
    left, right = st.columns(2, gap="large")
    with left:
        show_alone(film)
    with right:
        st.markdown(
            f"The model knows only {KNOWN}, and it would give a number to any image. {explanation} "
            f"{_tell_refused(card)}"
        )
        st.markdown(
            "If you want to see its score nevertheless, it is marked as refused, and it means nothing."
        )
        st.button("Score it anyway", on_click=_override, args=(film.digest,))


def tell_refusal(prediction: Prediction, card: ModelCard) -> tuple[str, str]:
    """Why a film is refused, in a clause and in a sentence."""
    lungs = prediction.lungs
    if lungs.box is None:
        return "No lungs were found", "It reads the lungs, and a first model has found none here."
    reason = "This does not look like a frontal chest X-ray"
    if not lungs.has_usual_shape:
        if lungs.quarter_turns:
            reason = f"This film seems to be {TURNS[lungs.quarter_turns]}"
        return reason, (
            "A first model looks for the lungs. What it has found here does not have the shape of lungs "
            "on an upright frontal film that shows both of them."
        )
    if prediction.looks_inverted:
        return "This film looks inverted", "It learned from films whose air is black; here, air is white."
    return reason, _tell_novelty(prediction, card)


def tell_lungs(prediction: Prediction) -> list[str]:
    """Sentences about lungs that are cut off, and about a rotated image, unless it is refused."""
    told, lungs = [], prediction.lungs
    if is_refused(prediction):
        return told
    if lungs.quarter_turns:
        told.append(
            f"This film seems to be {TURNS[lungs.quarter_turns]}. The model learned from upright films, "
            "so the score is hardly reliable."
        )
    if lungs.cut_off:
        edges = " and the ".join(lungs.cut_off)
        told.append(
            f"The lungs reach the {edges} edge of the film. What lies beyond has no part in the score."
        )
    return told


def _withdraw_override(digest: str) -> None:
    get_state().overridden.discard(digest)


def name_external(card: ModelCard) -> str:
    """What the images of another hospital are called."""
    name = card.provenance["external"]
    return EXTERNAL.get(name, f"films from another hospital ({name.replace('_', ' ')})")


def _override(digest: str) -> None:
    get_state().overridden.add(digest)


def _tell_novelty(prediction: Prediction, card: ModelCard) -> str:
    limit = card.novelty["refused" if prediction.screening == REFUSED else "unfamiliar"]
    novelty, shown = format_number(prediction.novelty, limit), format_number(limit, prediction.novelty)
    figures = f"novelty {novelty}, limit {shown}"
    return f"This film differs from the training films ({figures})."


def _tell_refused(card: ModelCard) -> str:
    test = card.metrics["test"]
    if "refused" not in test:  # a card without novelty
        return ""
    share = test["refused"]["value"]
    return f"Of the {test['films']} films of the official test split, {share:.1%} are refused."


def _tell_external(card: ModelCard) -> str:
    external = card.metrics.get("external")
    if not external:
        return ""
    return (
        f": {external['unfamiliar']['value']:.0%} of {external['films']} {name_external(card)} are like "
        f"that, and the AUROC there is {external['auroc']['value']:.2f}"
    )


def _offer(text: str, action: str, callback, film: ShownFilm) -> None:
    with st.container(border=True):
        st.markdown(text)
        st.button(action, on_click=callback, args=(film.digest,))


def _request_inversion(digest: str) -> None:
    get_state().inversion_requested.add(digest)


def _withdraw_inversion(digest: str) -> None:
    get_state().inversion_requested.discard(digest)
