"""The usual alternative: a page on TensorFlow and Keras, with Grad-CAM by GradientTape.

It is written like a tutorial, for the same network and input size, but with improvements that cost
nothing: the model is loaded once for all visitors, a film is decoded once, and probability and gradient
come from one pass. ``BASELINE_MODEL`` names the Keras file of ``python -m benchmarks.peers``::

    BASELINE_MODEL=runs/peers/160/keras.h5 streamlit run benchmarks/baseline_app.py
"""

from __future__ import annotations

import os

import streamlit as st

from benchmarks.baseline_model import load_model, process


def show_page() -> None:
    st.title("Pneumonia detector")
    upload = st.file_uploader("Chest X-ray")
    if upload:
        probability, overlay = process(
            st.cache_resource(load_model)(os.environ["BASELINE_MODEL"]), upload.read()
        )
        st.header(f"Pneumonia probability {probability:.2f}")
        st.image(overlay)


if __name__ == "__main__":
    show_page()
