"""The network: a backbone on one gray channel, pooling over the lungs, dropout, two logits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

from cxr.classifier import UNSURE
from cxr.lungs import interpolation_matrix
from training.config import EARLIER, TrainConfig
from training.flags import from_flat

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
IMAGENET_STD = np.array([0.229, 0.224, 0.225])

CAFFE_MEAN = np.array([103.939, 116.779, 123.68]) / 255.0  # blue, green, red


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A feature extractor of stride 32.

    ``mean`` and ``std`` (3,) are those that its ImageNet weights expect the channels to be normalized
    with, as a share of full scale. ``normalizes`` says whether the network does this itself.
    """

    build: Callable[..., tf_keras.Model]
    mean: np.ndarray
    std: np.ndarray
    normalizes: bool = False


def _build_small_cnn(weights: str | None, include_top: bool, **options: Any) -> tf_keras.Model:
    """Five blocks of convolution, BatchNorm, ReLU and pooling; it has no ImageNet weights."""
    if weights or include_top:
        raise ValueError(f"received weights {weights!r} for small_cnn; accepted is none")
    image = options.get("input_tensor")
    features = layers.Input(options["input_shape"]) if image is None else image
    (source,) = tf_keras.utils.get_source_inputs(features)
    for i, channels in enumerate((16, 32, 64, 128, 256)):
        features = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"conv{i}")(features)
        features = layers.BatchNormalization(name=f"bn{i}")(features)
        features = layers.MaxPooling2D(name=f"pool{i}")(layers.ReLU(name=f"relu{i}")(features))
    return tf_keras.Model(source, features)


_HALF, _APPLICATIONS = np.full(3, 0.5), tf_keras.applications
BACKBONES = {
    "efficientnet_b0": Backbone(_APPLICATIONS.EfficientNetB0, IMAGENET_MEAN, IMAGENET_STD, True),
    "efficientnet_b3": Backbone(_APPLICATIONS.EfficientNetB3, IMAGENET_MEAN, IMAGENET_STD, True),
    "mobilenet_v2": Backbone(_APPLICATIONS.MobileNetV2, _HALF, _HALF),
    "vgg16": Backbone(_APPLICATIONS.VGG16, CAFFE_MEAN, np.full(3, 1 / 255.0)),
    "resnet50_v2": Backbone(_APPLICATIONS.ResNet50V2, _HALF, _HALF),
    "small_cnn": Backbone(_build_small_cnn, _HALF, _HALF),
}
IMAGE_LAYER = "image"
PADDINGS = ("torchvision", "keras")
STRIDE = 32  # px of the image along the side of a cell of the features
MASK_CELLS = 8  # along the side of a cell of the features
EDGE_CELLS = 3  # of the mask, over which a drawn edge is blurred to be as unsure as a found one
WEIGHTS_LAYER = "lungs"  # of the cells
POOLED_LAYER = "pooled"
LOGIT_LAYER = "logit"  # log-odds of pneumonia
CAUSE_LAYER = "cause"  # log-odds of a virus, given pneumonia


class TakeChannel(layers.Layer):
    """One channel of (B, H, W, C), as (B, H, W, 1)."""

    def __init__(self, channel: int, **options: Any) -> None:
        super().__init__(**options)
        self.channel = channel

    def call(self, view: tf.Tensor) -> tf.Tensor:
        """Take the channel."""
        return view[..., self.channel : self.channel + 1]

    def get_config(self) -> dict[str, Any]:
        """The arguments of ``from_config``."""
        return super().get_config() | {"channel": self.channel}


class LungWeights(layers.Layer):
    """The weight of each cell of the features, (B, cells, cells, 1) of sum 1, from masks (B, S, S, 1) of
    0..255.

    With these weights, the weighted mean of the cells is the mean of their bilinear interpolation over
    the lungs, as in ``cxr.classifier``. Without any lung, all cells have the same weight.

    Args:
        cells: along each side.
        inner: count only what is surely lung, as the runtime does. The masks that it finds are less sure
            of the edges than those that people draw; this blurs the drawn ones as much.
        evenness: in training, the weights of an image are raised to a random power between
            ``1 - evenness`` and 1. Otherwise nothing teaches a cell with hardly any lung in it a sensible
            answer.
    """

    def __init__(self, cells: int, inner: bool = False, evenness: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.cells = cells
        self.inner = inner
        self.evenness = evenness

    def call(self, mask: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Weigh the cells."""
        side = MASK_CELLS * self.cells
        small = tf.image.resize(mask, (side, side), method="area")
        if self.inner:
            small = tf.nn.avg_pool2d(small / 255.0, EDGE_CELLS, 1, "SAME")
            small = tf.clip_by_value((small - UNSURE) / (1.0 - UNSURE), 0.0, 1.0)
        places = (np.arange(side) + 0.5) / side
        spread = tf.constant(interpolation_matrix(places, self.cells), tf.float32)
        weights = tf.einsum("bij,ik,jl->bkl", small[..., 0], spread, spread) + 1e-3
        if training and self.evenness:
            weights **= tf.random.uniform((tf.shape(weights)[0], 1, 1), 1.0 - self.evenness, 1.0)
        return (weights / tf.reduce_sum(weights, (1, 2), keepdims=True))[..., tf.newaxis]

    def get_config(self) -> dict[str, Any]:
        """The arguments of ``from_config``."""
        own = {"cells": self.cells, "inner": self.inner, "evenness": self.evenness}
        return super().get_config() | own


class WeightedPooling(layers.Layer):
    """Weighted mean (B, C) of features (B, h, w, C), with weights (B, h, w, 1) of sum 1."""

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Pool."""
        features, weights = inputs
        return tf.reduce_sum(features * weights, (1, 2))


CUSTOM_LAYERS = {layer.__name__: layer for layer in (TakeChannel, LungWeights, WeightedPooling)}


def build_model(
    backbone: str = "efficientnet_b0",
    image_size: int = 160,
    weights: str = "none",
    dropout: float = 0.2,
    padding: str = "torchvision",
    evenness: float = 0.0,
) -> tf_keras.Model:
    """Build the classifier.

    The ImageNet stem takes three channels. All three of a gray image are the same, so their kernels are
    summed into one, and the shift of the normalization moves into the stem's BatchNorm. The two networks
    agree except at the outermost pixels (zero padding), and the stem needs a third of the arithmetic.

    Args:
        backbone: a key of ``BACKBONES``.
        image_size: side of the input, px, a multiple of 32.
        weights: ``imagenet`` (downloaded by Keras), a ``.h5`` file of the backbone without its top,
            or ``none`` for random weights.
        dropout: rate before the logit.
        padding: how the stride-2 layers pad, ``torchvision`` (symmetrically) or ``keras`` (right and
            bottom only). It must be the padding that the initial weights were trained with. Otherwise
            each cell of the last features sees 31 px too far to the right and below, and the evidence
            map is drawn one cell too far to the left and above.
        evenness: of ``LungWeights``, 0..1.

    Returns:
        A flat Keras model from views float32 (B, image_size, image_size, 2), an image and the mask of its
        lungs, 0..255, to float32 (B, 2): the log-odds of pneumonia, and of a virus given pneumonia. The
        mask only weighs the cells of the last features.

    Raises:
        ValueError: if the backbone or the padding is unknown, if the input size is no multiple of 32, if
            the evenness is out of range, or if Keras' own ``imagenet`` weights are to be used with
            torchvision's padding.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"received the backbone {backbone!r}; accepted are {', '.join(BACKBONES)}")
    if image_size % STRIDE:
        raise ValueError(f"received image_size {image_size}; accepted are multiples of 32")
    if padding not in PADDINGS:
        raise ValueError(f"received the padding {padding!r}; accepted are {', '.join(PADDINGS)}")
    if not 0.0 <= evenness <= 1.0:
        raise ValueError(f"received evenness {evenness}; accepted is 0..1")
    if weights == "imagenet" and padding != "keras":
        raise ValueError(f"received weights 'imagenet' with padding {padding!r}; accepted is 'keras'")
    kind = BACKBONES[backbone]
    options: dict[str, Any] = {"include_top": False}
    view = layers.Input((image_size, image_size, 2), name="view")
    image = TakeChannel(0, name=IMAGE_LAYER)(view)
    tensor = image
    if not kind.normalizes:
        mean, std = kind.mean.mean(), kind.std.mean()
        tensor = layers.Rescaling(1.0 / (255.0 * std), -mean / std)(image)
    base = kind.build(weights=None, input_tensor=tensor, input_shape=image.shape[1:], **options)
    if padding == "torchvision":
        base = tf_keras.models.clone_model(base, clone_function=pad_both_sides)
    if weights != "none":
        source = kind.build(weights=weights, input_shape=(image_size, image_size, 3), **options)
        _copy_to_gray(source, base, kind)
    if kind.normalizes:
        _set_normalization(base, kind.mean.mean(), kind.std.mean())
    mask = TakeChannel(1, name="mask")(base.input)
    weights_of_cells = LungWeights(image_size // STRIDE, evenness=evenness, name=WEIGHTS_LAYER)(mask)
    pooled = WeightedPooling(name=POOLED_LAYER)([base.output, weights_of_cells])
    dropped = layers.Dropout(dropout, name="dropout")(pooled)
    heads = [layers.Dense(1, name=name, dtype="float32")(dropped) for name in (LOGIT_LAYER, CAUSE_LAYER)]
    return tf_keras.Model(base.input, layers.Concatenate(name="logits")(heads), name=backbone)


def build_from(config: TrainConfig, weights: str = "none") -> tf_keras.Model:
    """The network of a run, with initial weights as ``build_model`` takes them."""
    return build_model(
        config.backbone, config.image_size, weights, config.dropout, config.padding, config.evenness
    )


def load_config(run: Path) -> TrainConfig:
    """A run's configuration.

    Raises:
        FileNotFoundError: if the folder is no run.
    """
    return from_flat(TrainConfig, EARLIER | json.loads((run / "config.json").read_text()))


def load_run(run: Path) -> tuple[TrainConfig, tf_keras.Model]:
    """A run's configuration, and its network with the best weights.

    Raises:
        FileNotFoundError: if the run is not complete.
    """
    config, weights = load_config(run), run / "best_weights.h5"
    if not weights.exists():
        raise FileNotFoundError(f"received {run}, which lacks {weights.name}")
    model = build_from(config)
    model.load_weights(weights)
    return config, model


def set_trainable(
    model: tf_keras.Model, backbone: bool, freeze_until: str = "", freeze_norms: bool = True
) -> None:
    """Train the heads alone, or all weights.

    Args:
        model: of ``build_model``.
        backbone: whether the backbone is trained.
        freeze_until: name of the first backbone layer that is trained; empty for all layers.
        freeze_norms: keep BatchNorm in inference mode, because batches of 32 augmented images would
            replace the good statistics of the ImageNet weights by noisy ones.

    Raises:
        ValueError: if no layer has that name.
    """
    names = [layer.name for layer in model.layers]
    if freeze_until and freeze_until not in names:
        raise ValueError(f"received freeze_until {freeze_until!r}; accepted is a layer of {model.name}")
    first = names.index(freeze_until) if freeze_until else 0
    for i, layer in enumerate(model.layers):
        is_frozen = isinstance(layer, layers.Normalization) or (
            freeze_norms and isinstance(layer, layers.BatchNormalization)
        )
        is_head = layer.name in (LOGIT_LAYER, CAUSE_LAYER)
        layer.trainable = is_head or (backbone and i >= first and not is_frozen)


def grad_cam(model: tf_keras.Model, images: np.ndarray) -> np.ndarray:
    """Grad-CAM of the logit at the last features, by GradientTape (Selvaraju et al. 2017), signed.

    The reference that the exported ``evidence`` is tested against: with weighted pooling and one Dense
    unit it equals the class activation map less the bias, divided by the number of cells.

    Args:
        model: of ``build_model``.
        images: views float32 (B, S, S, 2), 0..255.

    Returns:
        float32 (B, S/32, S/32).
    """
    outputs = [model.get_layer(POOLED_LAYER).input[0], model.get_layer(LOGIT_LAYER).output]
    features_model = tf_keras.Model(model.input, outputs)
    with tf.GradientTape() as tape:
        features, logit = features_model(images, training=False)
    gradient = tape.gradient(logit, features)
    channel_weight = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    return tf.reduce_sum(channel_weight * features, axis=-1).numpy()


def _set_normalization(base: tf_keras.Model, mean: float, std: float) -> None:
    (layer,) = (n for n in base.layers if isinstance(n, layers.Normalization))
    _, _, count = layer.get_weights()
    layer.set_weights([np.array([mean]), np.array([std**2]), count])


def pad_both_sides(layer: layers.Layer) -> layers.Layer:
    """A copy of a layer for ``clone_model``, which pads symmetrically if it pads."""
    config = layer.get_config()
    if isinstance(layer, layers.ZeroPadding2D):
        margin = max(config["padding"][0])
        config["padding"] = ((margin, margin), (margin, margin))
    return type(layer).from_config(config)


def _copy_to_gray(source: tf_keras.Model, target: tf_keras.Model, kind: Backbone) -> None:
    """Copy weights by layer name, and sum the channels of the first convolution. Keras' own ImageNet
    networks may have one more layer than those built without weights; it has no weights."""
    scale = kind.std.mean() / kind.std
    offset = (kind.mean.mean() - kind.mean) / kind.std
    shift = None  # of the first convolution's output, until a bias or BatchNorm has absorbed it
    for layer in source.layers:
        values = layer.get_weights()
        if not values or isinstance(layer, layers.Normalization):
            continue
        if isinstance(layer, layers.Conv2D) and values[0].shape[2] == 3:
            kernel, *bias = values  # (h, w, 3, C)
            shift = np.einsum("hwco,c->o", kernel, offset)
            values = [
                np.einsum("hwco,c->hwo", kernel, scale)[:, :, np.newaxis],
                *(b + shift for b in bias),
            ]
            shift = None if bias else shift
        elif shift is not None and isinstance(layer, layers.BatchNormalization):
            *others, moving_mean, moving_variance = values
            values = [*others, moving_mean - shift, moving_variance]
            shift = None
        target.get_layer(layer.name).set_weights(values)
