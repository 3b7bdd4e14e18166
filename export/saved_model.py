"""A SavedModel that takes the bytes of image files, for TensorFlow Serving.

Command, after ``python -m export``::

    python -m export.saved_model --run runs/NAME --out serving/pneumonia/1

Decoding, resizing, gray levels and calibration are in the graph, so a client posts files and receives
probabilities. The model runs in float32 on TensorFlow's own kernels. The ``.tflite`` files and ``cxr``
need much less memory and time, and no server.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import tensorflow as tf
import tf_keras

from cxr.errors import InvalidModelError
from cxr.imaging import STRETCH_PERCENTILES
from cxr.model_card import ModelCard
from export.convert import build_export_model
from training.model import load_run

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in cxr.read_image


class FileServer(tf.Module):
    """The network behind ``cxr.preprocess`` written in TensorFlow, and the card's calibration."""

    def __init__(self, model: tf_keras.Model, card: ModelCard) -> None:
        super().__init__()
        self.network = build_export_model(model)
        self.size = card.input_size
        self.calibration = card.temperature, card.offset

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="film")])
    def serve(self, film: tf.Tensor) -> dict[str, tf.Tensor]:
        """Score image files.

        Args:
            film: string (N,), contents of JPEG or PNG files of 8 bits, gray or color.

        Returns:
            ``probability`` float32 (N,), calibrated; ``logit`` (N,); ``evidence`` (N, S/32, S/32).
        """
        shape = tf.TensorSpec((self.size, self.size, 1), tf.float32)
        images = tf.map_fn(self._prepare, film, fn_output_signature=shape)
        outputs = self.network(images, training=False)
        temperature, offset = self.calibration
        logit = outputs["logit"][:, 0]
        return {
            "probability": tf.sigmoid(logit / temperature + offset),
            "logit": logit,
            "evidence": outputs["evidence"][..., 0],
        }

    def _prepare(self, file: tf.Tensor) -> tf.Tensor:
        """As ``cxr.preprocess(cxr.read_image(file), size)``, float32 (S, S, 1)."""
        pixels = tf.io.decode_image(file, expand_animations=False)
        gray = tf.cond(
            tf.shape(pixels)[-1] < 3,
            lambda: tf.cast(pixels[..., :1], tf.float32),
            lambda: tf.round(
                tf.reduce_sum(tf.cast(pixels[..., :3], tf.float32) * LUMA, -1, keepdims=True)
            ),
        )
        resized = tf.round(tf.image.resize(gray, (self.size, self.size), "bilinear", antialias=True))
        low, high = (_percentile(resized, q) for q in STRETCH_PERCENTILES)
        stretched = (resized - low) * (255.0 / tf.maximum(high - low, 1.0))
        return tf.clip_by_value(tf.round(stretched), 0.0, 255.0)


def _percentile(values: tf.Tensor, q: float) -> tf.Tensor:
    """Interpolate linearly between the two nearest values, as numpy does."""
    ordered = tf.sort(tf.reshape(values, (-1,)))
    place = tf.cast(tf.size(ordered) - 1, tf.float32) * (q / 100.0)
    below = tf.cast(tf.floor(place), tf.int32)
    above = tf.minimum(below + 1, tf.size(ordered) - 1)
    share = place - tf.floor(place)
    return ordered[below] * (1.0 - share) + ordered[above] * share


def save_for_serving(model: tf_keras.Model, card: ModelCard, out: Path) -> None:
    """Write the SavedModel, whose default signature is ``FileServer.serve``.

    Args:
        model: of ``training.model.build_model``, with the weights of the card's model.
        card: of the float32 model; gives input size and calibration.
        out: a new folder; TensorFlow Serving expects a version number as its name.

    Raises:
        ValueError: if the model's input is not of the card's size.
    """
    if model.input_shape[1] != card.input_size:
        raise ValueError(
            f"received a model of {model.input_shape[1]} px; its card has {card.input_size} px"
        )
    server = FileServer(model, card)
    tf.saved_model.save(server, str(out), signatures={"serving_default": server.serve})


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m export.saved_model", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--run", type=Path, required=True, help="an exported run: runs/NAME")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where its cards are")
    parser.add_argument("--out", type=Path, required=True, help="a new folder, named by a version")
    args = parser.parse_args()
    try:
        card = ModelCard.load(args.models / "pneumonia_float32.json")
        _, model = load_run(args.run, "pruned_weights.h5")
        save_for_serving(model, card, args.out)
    except (InvalidModelError, ValueError, FileNotFoundError) as error:
        print(f"export.saved_model: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: signature serving_default, film (N,) to probability, logit, evidence")
    return 0


if __name__ == "__main__":
    sys.exit(main())
