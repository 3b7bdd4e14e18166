"""Is this a film that the model knows? What is said where it is not, and what the visitor may do."""

from __future__ import annotations

import dataclasses

import streamlit as st

from cxr import Classifier, ModelCard, Prediction
from cxr.novelty import REFUSED, UNFAMILIAR
from streamlit_app.state import ShownFilm, get_state
from streamlit_app.viewer import show_alone

KNOWN = "frontal chest films of children"
LOOKS_INVERTED = "This film looks inverted: air is white in it."


def as_shown(film: ShownFilm) -> ShownFilm:
    """The film, with its gray levels inverted where the visitor asked for it."""
    if film.digest not in get_state().inversion_requested:
        return film
    return dataclasses.replace(film, pixels=255 - film.pixels, was_inverted=True)


def show(prediction: Prediction, film: ShownFilm, classifier: Classifier) -> None:
    """Notes on the file, the offer of inversion, and a warning where the film is unfamiliar."""
    for note in film.notes:
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
    if prediction.screening == UNFAMILIAR:
        card = classifier.card
        st.warning(
            f"**Unlike the films that the model learned from.** {_tell_novelty(prediction, card)} On "
            f"such films its score is worth little{_tell_external(card)}."
        )


def admits(prediction: Prediction, film: ShownFilm) -> bool:
    """Whether the score is shown: the film is not refused, or the visitor wants it all the same."""
    return prediction.screening != REFUSED or film.digest in get_state().overridden


def refuse(prediction: Prediction, film: ShownFilm, card: ModelCard) -> None:
    """The page in place of a score, with the way around it."""
    st.subheader("Not scored: this does not look like a frontal chest X-ray", anchor=False)
    left, right = st.columns(2, gap="large")
    with left:
        show_alone(film)
    with right:
        st.markdown(
            f"The model knows {KNOWN} alone, and would give a number to anything. "
            f"{_tell_novelty(prediction, card)} {_tell_refused(card)}"
        )
        st.markdown("If it is a frontal chest film all the same, its score will be marked as refused.")
        st.button("Score it anyway", on_click=override, args=(film.digest,))


def override(digest: str) -> None:
    """Let the score of the file with this sha256 be shown, though it is refused."""
    get_state().overridden.add(digest)


def badge(screening: str | None) -> str:
    """The mark beside a verdict whose film is not typical, in markdown; else nothing."""
    if screening == REFUSED:
        return " &ensp; :red-badge[Refused film, scored anyway]"
    return " &ensp; :orange-badge[Unfamiliar film]" if screening == UNFAMILIAR else ""


def _tell_novelty(prediction: Prediction, card: ModelCard) -> str:
    unfamiliar, refused = card.novelty["unfamiliar"], card.novelty["refused"]
    return (
        f"Its novelty is {prediction.novelty:.2f}: 1 is usual, above {unfamiliar:.2f} a film is "
        f"unfamiliar, above {refused:.2f} it is refused."
    )


def _tell_refused(card: ModelCard) -> str:
    test = card.metrics["test"]
    return f"Of the {test['films']} films of the official test split {test['refused']['value']:.1%} are."


def _tell_external(card: ModelCard) -> str:
    external = card.metrics.get("external")
    if not external:
        return ""
    return (
        f": {external['unfamiliar']['value']:.0%} of {external['films']} adult films of another "
        f"hospital are like that, and the AUROC there is {external['auroc']['value']:.2f}"
    )


def _offer(text: str, action: str, callback, film: ShownFilm) -> None:
    with st.container(border=True):
        st.markdown(text)
        st.button(action, on_click=callback, args=(film.digest,))


def _request_inversion(digest: str) -> None:
    get_state().inversion_requested.add(digest)


def _withdraw_inversion(digest: str) -> None:
    get_state().inversion_requested.discard(digest)
