"""The model of ``baseline_app.py``: a Keras network with Grad-CAM by GradientTape, as in tutorials."""

from __future__ import annotations

import io

import cv2
import numpy as np
import tensorflow as tf
import tf_keras
from PIL import Image

FEATURES, CELLS = "top_activation", "evidence_cells"


def load_model(path: str) -> tf_keras.Model:
    """Load a model that maps gray pixels, float32 (1, S, S, 1), to the last features and the logit, which
    is pooled over the whole image, as in tutorials."""
    model = tf_keras.models.load_model(path, compile=False)
    cells = model.get_layer(CELLS).output
    logits = tf_keras.layers.GlobalAveragePooling2D()(cells)
    return tf_keras.Model(model.input, [model.get_layer(FEATURES).output, logits])


def classify(model: tf_keras.Model, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Probability of pneumonia, and its Grad-CAM, float32 (h, w) (Selvaraju et al. 2017)."""
    with tf.GradientTape() as tape:
        features, logits = model(image, training=False)
        logit = logits[0, 0]
    gradient = tape.gradient(logit, features)
    weights = tf.reduce_mean(gradient, axis=(0, 1, 2))
    heatmap = tf.nn.relu(tf.reduce_sum(features[0] * weights, axis=-1))
    return tf.sigmoid(logit), heatmap / tf.maximum(tf.reduce_max(heatmap), 1e-6)


def process(model: tf_keras.Model, data: bytes, run=classify) -> tuple[float, np.ndarray]:
    """Turn the bytes of a file into the probability and the film with its heatmap, uint8 (H, W, 3)."""
    film = Image.open(io.BytesIO(data)).convert("L")
    side = model.input_shape[1]
    pixels = np.asarray(film.resize((side, side)), np.float32)[np.newaxis, ..., np.newaxis]
    probability, heatmap = run(model, tf.constant(pixels))
    gray = np.asarray(film)
    heat = cv2.resize(np.uint8(255 * heatmap.numpy()), (gray.shape[1], gray.shape[0]))
    color = cv2.cvtColor(cv2.applyColorMap(heat, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    overlay = cv2.addWeighted(cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB), 0.6, color, 0.4, 0)
    return float(probability), overlay


def encode(overlay: np.ndarray) -> bytes:
    """Encode a picture, uint8 (H, W, 3), as ``st.image`` does with an array."""
    file = io.BytesIO()
    Image.fromarray(overlay).save(file, "JPEG", quality=100)
    return file.getvalue()
