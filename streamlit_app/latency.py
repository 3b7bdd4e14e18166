"""Show latency: each stage for this film, and repeated warm runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import altair as alt
import pandas as pd
import streamlit as st

from cxr import Classifier, Latency, measure_latency
from cxr.latency import cpu_name
from streamlit_app.sidebar import LoadedModel
from streamlit_app.state import ShownFilm, get_state

REPEATS = 30
COLORS = ("#7a8a99", "#5b7fb5", "#4c9aa8", "#0f7b8a", "#8fb8a0", "#e0a458")


def measure(classifiers: Sequence[Classifier], film: ShownFilm) -> list[Latency]:
    """Measure warm runs on this film, once and not in each run of the page; the models take turns."""
    key = (film.digest, film.was_inverted, *((c.card.sha256, c.num_threads) for c in classifiers))
    kept, count = get_state().latencies, len(classifiers)
    if count not in kept or kept[count][0] != key:
        with _turn():  # two measurements at the same time would slow each other
            kept[count] = key, measure_latency(classifiers, film.pixels, REPEATS)
    return kept[count][1]


@st.cache_resource
def _turn() -> threading.Lock:
    return threading.Lock()


def show(latency: Latency, model: LoadedModel, decode_ms: float, draw_ms: float) -> None:
    """Show the stages as one bar, then warm inference, and the first use of the model."""
    stages = {
        "decode": decode_ms,
        **{stage: latency.median_ms(stage) for stage in latency.samples_ms},
        "draw": draw_ms,
    }
    st.subheader(f"{sum(stages.values()):.0f} ms from file to picture", anchor=False)
    st.altair_chart(_draw_stages(stages), alt="Time of each stage, as listed below")
    st.caption(
        ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in stages.items())
        + ". Decode and draw (the page's pictures: resize, color, encode) are timed once, on this film; "
        "the others are medians of warm runs."
    )
    threads = "1 thread" if latency.num_threads == 1 else f"{latency.num_threads} threads"
    st.markdown(
        f"Inference, warm: median **{latency.median_ms('inference'):.1f} ms**, 95th percentile "
        f"{latency.p95_ms('inference'):.1f} ms over {REPEATS} warm runs, {threads}, {cpu_name()}. "
        f"First use of this model and thread count: loading took {model.load_ms:.0f} ms and the first "
        f"inference {model.first_inference_ms:.1f} ms."
    )


def _draw_stages(stages: dict[str, float]) -> alt.Chart:
    data = pd.DataFrame({"stage": list(stages), "ms": list(stages.values()), "order": range(len(stages))})
    return (
        alt.Chart(data, height=90)
        .mark_bar(size=14)
        .encode(
            x=alt.X("ms", stack="zero", title="ms"),
            color=alt.Color(
                "stage",
                sort=list(stages),
                scale=alt.Scale(range=COLORS),
                legend=alt.Legend(orient="top", title=None, columns=3),
            ),
            order="order",
            tooltip=["stage", alt.Tooltip("ms", format=".2f")],
        )
    )
