"""Show latency: each stage for this film, and repeated warm runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import streamlit as st

from cxr import Classifier, Latency, Prediction, measure_latency
from cxr.latency import cpu_name
from streamlit_app.charts import draw_stages
from streamlit_app.sidebar import LoadedModel
from streamlit_app.state import ShownFilm, get_state

REPEATS, BUDGET_MS = 10, 40.0  # of each film's measurement; a visitor's server has others to serve
COMPARED_REPEATS, COMPARED_MS = 30, 300.0  # of a comparison, which a visitor asks for
COLORS = ("#7a8a99", "#5b7fb5", "#4c9aa8", "#0f7b8a", "#8fb8a0", "#e0a458")


def measure(
    classifiers: Sequence[Classifier], film: ShownFilm, prediction: Prediction
) -> tuple[list[Latency], bool]:
    """Measure warm runs on this film, once and not in each run of the page; the models take turns.

    Two measurements at the same time would slow each other, so while another session measures there is
    a single timed run, which is not kept.

    Returns:
        A ``Latency`` for each model, and whether no other session was measuring.
    """
    key = (film.digest, film.was_inverted, *((c.card.sha256, c.num_threads) for c in classifiers))
    kept, count = get_state().latencies, len(classifiers)
    if count in kept and kept[count][0] == key:
        return kept[count][1], True
    turn = _turn()
    if not turn.acquire(blocking=False):
        return measure_latency(classifiers, prediction, repeats=1, warmup=1), False
    try:
        repeats, budget_ms = (REPEATS, BUDGET_MS) if count == 1 else (COMPARED_REPEATS, COMPARED_MS)
        kept[count] = key, measure_latency(classifiers, prediction, repeats, 1, budget_ms)
    finally:
        turn.release()
    return kept[count][1], True


@st.cache_resource
def _turn() -> threading.Lock:
    return threading.Lock()


def show(
    prediction: Prediction,
    latency: Latency,
    is_alone: bool,
    model: LoadedModel,
    decode_ms: float,
    draw_ms: float,
) -> None:
    """Show the stages of this film as one bar, then warm inference, and the first use of the model."""
    stages = {"decode": decode_ms, **prediction.latency_ms, "draw": draw_ms}
    st.subheader(f"{sum(stages.values()):.0f} ms from file to picture", anchor=False)
    st.html(draw_stages(stages, COLORS, "Time of each stage, as listed below"))
    st.caption(
        ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in stages.items())
        + ". All were timed once, on this film. *Lungs* finds the lungs, *inference* is the classifier, "
        "and *draw* makes the page's pictures (resize, color, encode)."
    )
    threads = "1 thread" if latency.num_threads == 1 else f"{latency.num_threads} threads"
    runs = f"{latency.runs} warm run{'s' if latency.runs > 1 else ''}"
    runs += "" if is_alone else " (another film is being measured)"
    st.markdown(
        f"Both networks, warm: median **{latency.median_ms():.1f} ms** ({latency.median_ms('lungs'):.1f} "
        f"for the lungs, {latency.median_ms('classifier'):.1f} for the classifier), slowest "
        f"{latency.samples_ms['both'].max():.1f} ms of {runs}, {threads}, {cpu_name()}. "
        f"First use of this model and thread count: loading {model.load_ms:.0f} ms, first inference "
        f"{model.first_inference_ms:.0f} ms."
    )
