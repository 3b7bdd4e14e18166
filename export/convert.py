"""Convert a Keras model to a float32 .tflite file with the signature that the runtime reads."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator

import tensorflow as tf
import tf_keras
from tf_keras import layers

from training.model import CAUSE_LAYER, IMAGE_LAYER, LOGIT_LAYER, POOLED_LAYER


def build_export_model(model: tf_keras.Model) -> tf_keras.Model:
    """The three outputs of the contract on a trained model's weights.

    With weighted pooling and one Dense unit, the Dense kernel used as a 1x1 convolution gives the class
    activation map, whose weighted mean over the cells is exactly the logit (Zhou et al. 2016). This needs
    no gradient. ``cxr.classifier`` does the pooling, with the lungs as weights.

    Args:
        model: of ``training.model.build_model``.

    Returns:
        A model from the box of the lungs, float32 (B, S, S, 1), to ``cause`` and ``evidence``
        (B, S/32, S/32, 1), log-odds in each cell, and ``embedding`` (B, C), all float32.
    """
    features = model.get_layer(POOLED_LAYER).input[0]
    outputs = {"embedding": layers.GlobalAveragePooling2D(name="embedding")(features)}
    for name, source in (("evidence", LOGIT_LAYER), ("cause", CAUSE_LAYER)):
        kernel, bias = model.get_layer(source).get_weights()
        head = layers.Conv2D(1, 1, name=f"{name}_cells")
        outputs[name] = head(features)
        head.set_weights([kernel[None, None], bias])
    return tf_keras.Model(model.get_layer(IMAGE_LAYER).output, outputs)


def to_tflite(model: tf_keras.Model) -> bytes:
    """Convert to float32 .tflite: input ``image`` uint8 (1, S, S, 1), signature ``serving_default``."""
    with save_with_signature(model) as folder:
        return tf.lite.TFLiteConverter.from_saved_model(folder).convert()


@contextlib.contextmanager
def save_with_signature(model: tf_keras.Model) -> Iterator[str]:
    """A temporary SavedModel of the contract's signature."""
    export_model = build_export_model(model)
    with _save(export_model, lambda image: export_model(image, training=False)) as folder:
        yield folder


def lungs_to_tflite(model: tf_keras.Model) -> bytes:
    """Convert a network of ``training.lungs`` to float32 .tflite with the signature ``serving_default``:
    from ``image`` uint8 (1, S, S, 1) to ``lungs`` (1, S/4, S/4, 1) and ``turn`` (1, 4), probabilities."""

    def find(image: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = model(image, training=False)
        return {"lungs": tf.sigmoid(logits["lungs"]), "turn": tf.nn.softmax(logits["turn"])}

    with _save(model, find) as folder:
        return tf.lite.TFLiteConverter.from_saved_model(folder).convert()


@contextlib.contextmanager
def _save(model: tf_keras.Model, call: Callable[[tf.Tensor], dict[str, tf.Tensor]]) -> Iterator[str]:
    """A temporary SavedModel whose signature calls ``call`` on ``image`` uint8 (1, S, S, 1).

    Only the variables are saved beside it: saving the Keras model as well would trace each of its layers,
    which takes five times as long.
    """
    side = model.input_shape[1]

    @tf.function(input_signature=[tf.TensorSpec((1, side, side, 1), tf.uint8, name="image")])
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return call(tf.cast(image, tf.float32))

    module = tf.Module()
    module.kept = model.variables
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": serve})
        yield folder
