"""A SavedModel that takes the bytes of image files, for TensorFlow Serving.

Command, after ``python -m export``::

    python -m export.saved_model --run runs/NAME --models exported --lungs-run runs/lungs \
        --out serving/pneumonia/1

Decoding, finding the lungs, resizing, gray levels and calibration are in the graph, so a client posts
files and receives probabilities. The networks run in float32 on TensorFlow's own kernels. The
``.tflite`` files and ``cxr`` need much less memory and time, and no server.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import tensorflow as tf
import tf_keras

from cxr.classifier import EVIDENCE_SIDE, STRIDE, UNSURE
from cxr.errors import InvalidModelError
from cxr.imaging import STRETCH_PERCENTILES
from cxr.lungs import BOX_QUANTILE, CERTAIN, FAINT, MARGIN, MIN_AREA, MIN_CERTAIN_SHARE
from cxr.model_card import ModelCard
from export.convert import build_export_model
from export.structure import load_exported
from training.lungs import load_lung_run

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in cxr.read_image


class FileServer:
    """Both networks behind ``cxr.preprocess`` written in TensorFlow, the pooling of
    ``cxr.classifier.spread_evidence``, and the card's calibration."""

    def __init__(self, model: tf_keras.Model, finder: tf_keras.Model, card: ModelCard) -> None:
        self.network = build_export_model(model)
        self.finder = finder
        self.size = card.input_size
        self.calibration = card.temperature, card.offset

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="film")])
    def serve(self, film: tf.Tensor) -> dict[str, tf.Tensor]:
        """Score image files.

        Args:
            film: string (N,), contents of JPEG or PNG files of 8 bits, gray or color.

        Returns:
            ``probability`` float32 (N,), calibrated; ``logit`` (N,); ``evidence`` (N, 80, 80) over the
            film; ``lung_box`` (N, 4), x0, y0, x1, y1 as shares of width and height. Without lungs, the
            box is the whole film, which cxr refuses.
        """
        side = EVIDENCE_SIDE
        shapes = {
            "image": tf.TensorSpec((self.size, self.size, 1), tf.float32),
            "mask": tf.TensorSpec((side, side), tf.float32),
            "box": tf.TensorSpec((4,), tf.float32),
        }
        looks = tf.map_fn(self._look, film, fn_output_signature=shapes)
        cells = self.network(looks["image"], training=False)["evidence"][..., 0]
        places = (tf.range(side, dtype=tf.float32) + 0.5) / side
        x0, y0, x1, y1 = (edge[:, tf.newaxis] for edge in tf.unstack(looks["box"], axis=1))
        rows, columns = (
            _interpolate((places - low) / (high - low), self.size // STRIDE)
            for low, high in ((y0, y1), (x0, x1))
        )
        spread = tf.einsum("nik,nkl,njl->nij", rows, cells, columns)
        inside = tf.einsum("ni,nj->nij", tf.reduce_sum(rows, 2), tf.reduce_sum(columns, 2))
        mask = looks["mask"] * inside
        total = tf.reduce_sum(mask, (1, 2), keepdims=True)
        mask = tf.where(total > 0.0, mask, inside)
        evidence = spread * mask / tf.reduce_mean(mask, (1, 2), keepdims=True)
        temperature, offset = self.calibration
        logit = tf.reduce_mean(evidence, (1, 2))
        return {
            "probability": tf.sigmoid(logit / temperature + offset),
            "logit": logit,
            "evidence": evidence,
            "lung_box": looks["box"],
        }

    def _look(self, file: tf.Tensor) -> dict[str, tf.Tensor]:
        """Find the lungs in a file, and cut out their box. The mask is that of ``spread_evidence``."""
        gray = _decode(file)
        whole = tf.constant([0.0, 0.0, 1.0, 1.0])
        first = _prepare(gray, self.finder.input_shape[1], whole)[tf.newaxis]
        mask = tf.sigmoid(self.finder(first, training=False)["lungs"])[0, ..., 0]
        area, certain = (tf.reduce_mean(tf.cast(mask >= p, tf.float32)) for p in (0.5, CERTAIN))
        is_found = (area >= MIN_AREA) & (certain >= MIN_CERTAIN_SHARE * area)
        box = tf.where(is_found, _find_box(mask), whole)
        fine = tf.image.resize(mask[..., tf.newaxis], (EVIDENCE_SIDE, EVIDENCE_SIDE))[..., 0]
        sure = tf.clip_by_value((fine - UNSURE) / (1.0 - UNSURE), 0.0, 1.0)
        counted = tf.where(is_found, sure, 1.0)
        return {"image": _prepare(gray, self.size, box), "mask": counted, "box": box}


def _decode(file: tf.Tensor) -> tf.Tensor:
    """As ``cxr.read_image``, float32 (H, W, 1), but without rotation by EXIF, which TensorFlow does not
    read."""
    pixels = tf.cast(tf.io.decode_image(file, expand_animations=False), tf.float32)
    channels = tf.shape(pixels)[-1]
    gray = tf.cond(
        channels < 3,
        lambda: pixels[..., :1],
        lambda: tf.round(tf.reduce_sum(pixels[..., :3] * LUMA, -1, keepdims=True)),
    )
    has_alpha = channels % 2 == 0  # composited over black and rounded down, as Pillow does
    return tf.cond(has_alpha, lambda: tf.floor(gray * pixels[..., -1:] / 255.0), lambda: gray)


def _prepare(gray: tf.Tensor, size: int, box: tf.Tensor) -> tf.Tensor:
    """As ``cxr.preprocess``, float32 (size, size, 1)."""
    height, width = tf.unstack(tf.cast(tf.shape(gray)[:2], tf.float32))
    x0, y0, x1, y1 = tf.unstack(box * tf.stack([width, height, width, height]))
    scale = tf.stack([size / (y1 - y0), size / (x1 - x0)])
    resized = tf.raw_ops.ScaleAndTranslate(
        images=gray[tf.newaxis],
        size=(size, size),
        scale=scale,
        translation=-tf.stack([y0, x0]) * scale,
        kernel_type="triangle",
        antialias=True,
    )[0]
    resized = tf.round(resized)
    low, high = (_percentile(resized, q) for q in STRETCH_PERCENTILES)
    stretched = (resized - low) * (255.0 / tf.maximum(high - low, 1.0))
    return tf.clip_by_value(tf.round(stretched), 0.0, 255.0)


def _find_box(mask: tf.Tensor) -> tf.Tensor:
    """As ``cxr.lungs.find_box`` and ``widen``, float32 (4,), of a mask (h, w)."""
    mask = tf.where(mask >= FAINT * tf.reduce_max(mask), mask, 0.0)
    edges = []
    for axis in (0, 1):
        total = tf.concat([[0.0], tf.cumsum(tf.reduce_sum(mask, axis))], 0)
        shares = total / total[-1]
        count = tf.cast(tf.size(shares) - 1, tf.float32)
        for quantile in (BOX_QUANTILE, 1.0 - BOX_QUANTILE):
            above = tf.searchsorted(shares, [quantile])[0]
            low, high = shares[above - 1], shares[above]
            edges.append((tf.cast(above, tf.float32) - (high - quantile) / (high - low)) / count)
    x0, x1, y0, y1 = edges
    dx, dy = MARGIN * (x1 - x0), MARGIN * (y1 - y0)
    return tf.clip_by_value(tf.stack([x0 - dx, y0 - dy, x1 + dx, y1 + dy]), 0.0, 1.0)


def _interpolate(places: tf.Tensor, cells: int) -> tf.Tensor:
    """As ``cxr.lungs.interpolation_matrix``, (N, P, cells), of places (N, P)."""
    position = tf.clip_by_value(places * cells - 0.5, 0.0, cells - 1.0)
    weights = tf.maximum(1.0 - tf.abs(position[..., tf.newaxis] - tf.range(cells, dtype=tf.float32)), 0.0)
    inside = tf.cast((places >= 0.0) & (places <= 1.0), tf.float32)
    return weights * inside[..., tf.newaxis]


def _percentile(values: tf.Tensor, q: float) -> tf.Tensor:
    """Interpolate linearly between the two nearest values, as numpy does."""
    ordered = tf.sort(tf.reshape(values, (-1,)))
    place = tf.cast(tf.size(ordered) - 1, tf.float32) * (q / 100.0)
    below = tf.cast(tf.floor(place), tf.int32)
    above = tf.minimum(below + 1, tf.size(ordered) - 1)
    share = place - tf.floor(place)
    return ordered[below] * (1.0 - share) + ordered[above] * share


def save_for_serving(model: tf_keras.Model, finder: tf_keras.Model, card: ModelCard, out: Path) -> None:
    """Write the SavedModel, whose default signature is ``FileServer.serve``.

    Args:
        model: of ``training.model.build_model``, with the weights of the card's model.
        finder: of ``training.lungs.build_lung_model``, with the weights of the finder of lungs.
        card: of the float32 model; gives input size and calibration.
        out: a new folder; TensorFlow Serving expects a version number as its name.

    Raises:
        ValueError: if the model's input is not of the card's size.
    """
    if model.input_shape[1] != card.input_size:
        raise ValueError(
            f"received a model of {model.input_shape[1]} px; its card has {card.input_size} px"
        )
    server = FileServer(model, finder, card)
    module = tf.Module()
    module.kept = [*server.network.variables, *finder.variables]  # as export.convert saves
    tf.saved_model.save(module, str(out), signatures={"serving_default": server.serve})


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m export.saved_model", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--run", type=Path, required=True, help="an exported run: runs/NAME")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where its cards are")
    parser.add_argument("--out", type=Path, required=True, help="a new folder, named by a version")
    parser.add_argument("--lungs-run", type=Path, required=True, help="runs/NAME of training.lungs")
    args = parser.parse_args()
    try:
        card = ModelCard.load(args.models / "pneumonia_float32.json")
        _, model = load_exported(args.run)
        _, finder = load_lung_run(args.lungs_run)
        save_for_serving(model, finder, card, args.out)
    except (InvalidModelError, ValueError, FileNotFoundError) as error:
        print(f"export.saved_model: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: signature serving_default, film (N,) to probability, logit, evidence, lung_box")
    return 0


if __name__ == "__main__":
    sys.exit(main())
