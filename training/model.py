"""The network: a backbone on one gray channel, global average pooling, dropout, one logit."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
IMAGENET_STD = np.array([0.229, 0.224, 0.225])
GRAY_MEAN = float(IMAGENET_MEAN.mean())
GRAY_STD = float(IMAGENET_STD.mean())

BACKBONES = {"efficientnet_b0": tf_keras.applications.EfficientNetB0}
PADDINGS = ("torchvision", "keras")
FEATURES_LAYER = "top_activation"
LOGIT_LAYER = "logit"


def build_model(
    backbone: str = "efficientnet_b0",
    image_size: int = 160,
    weights: str = "none",
    dropout: float = 0.2,
    padding: str = "torchvision",
) -> tf_keras.Model:
    """Build the classifier.

    The ImageNet stem takes three channels; on a gray film all three are the same picture, so their
    kernels are summed into one, with the normalization's shift moved into the stem's BatchNorm. The
    two networks agree but for the outermost pixels (zero padding), and a third of the input path goes.

    Args:
        backbone: a key of ``BACKBONES``.
        image_size: side of the input, px, a multiple of 32.
        weights: ``imagenet`` (downloaded by Keras), a ``.h5`` file of the backbone without its top,
            or ``none`` for random weights.
        dropout: rate before the logit.
        padding: where the stride-2 layers lay their zeros, ``torchvision`` (both sides) or ``keras``
            (right and bottom). It must be that of the initial weights' training: under the other, each
            cell of the last features sees 31 px further to the right and below than it was trained to,
            and the evidence map is drawn a cell too far to the left and above.

    Returns:
        A flat Keras model, float32 (B, image_size, image_size, 1) of 0..255 to float32 (B, 1) logits.

    Raises:
        ValueError: for an unknown backbone or padding, an input size that 32 does not divide, or
            Keras' own ``imagenet`` weights under torchvision's padding.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"received the backbone {backbone!r}; accepted are {', '.join(BACKBONES)}")
    if image_size % 32:
        raise ValueError(f"received image_size {image_size}; accepted are multiples of 32")
    if padding not in PADDINGS:
        raise ValueError(f"received the padding {padding!r}; accepted are {', '.join(PADDINGS)}")
    if weights == "imagenet" and padding != "keras":
        raise ValueError(f"received weights 'imagenet' with padding {padding!r}; accepted is 'keras'")
    build = BACKBONES[backbone]
    base = build(weights=None, include_top=False, input_shape=(image_size, image_size, 1))
    if padding == "torchvision":
        base = tf_keras.models.clone_model(base, clone_function=_pad_both_sides)
    if weights != "none":
        source = build(weights=weights, include_top=False, input_shape=(image_size, image_size, 3))
        _copy_to_gray(source, base)
    _set_normalization(base, GRAY_MEAN, GRAY_STD)
    pooled = layers.GlobalAveragePooling2D(name="pooled")(base.get_layer(FEATURES_LAYER).output)
    dropped = layers.Dropout(dropout, name="dropout")(pooled)
    logit = layers.Dense(1, name=LOGIT_LAYER, dtype="float32")(dropped)
    return tf_keras.Model(base.input, logit, name=backbone)


def set_trainable(model: tf_keras.Model, backbone: bool) -> None:
    """Train the head alone, or all weights. BatchNorm always stays in inference mode: batches of 32
    augmented films would replace good statistics by noisy ones."""
    for layer in model.layers:
        is_norm = isinstance(layer, (layers.BatchNormalization, layers.Normalization))
        layer.trainable = layer.name == LOGIT_LAYER or (backbone and not is_norm)


def grad_cam(model: tf_keras.Model, images: np.ndarray) -> np.ndarray:
    """Grad-CAM of the logit at the last features, by GradientTape (Selvaraju et al. 2017), signed.

    The reference that the exported ``evidence`` is tested against: with global average pooling and
    one Dense unit it equals the class activation map less the bias, divided by the number of cells.

    Args:
        model: of ``build_model``.
        images: float32 (B, S, S, 1), 0..255.

    Returns:
        float32 (B, S/32, S/32).
    """
    features_model = tf_keras.Model(model.input, [model.get_layer(FEATURES_LAYER).output, model.output])
    with tf.GradientTape() as tape:
        features, logit = features_model(images, training=False)
    gradient = tape.gradient(logit, features)
    channel_weight = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    return tf.reduce_sum(channel_weight * features, axis=-1).numpy()


def _set_normalization(base: tf_keras.Model, mean: float, std: float) -> None:
    (layer,) = (n for n in base.layers if isinstance(n, layers.Normalization))
    _, _, count = layer.get_weights()
    layer.set_weights([np.array([mean]), np.array([std**2]), count])


def _pad_both_sides(layer: layers.Layer) -> layers.Layer:
    config = layer.get_config()
    if isinstance(layer, layers.ZeroPadding2D):
        margin = max(config["padding"][0])
        config["padding"] = ((margin, margin), (margin, margin))
    return type(layer).from_config(config)


def _copy_to_gray(source: tf_keras.Model, target: tf_keras.Model) -> None:
    """Copy weights layer by layer, by name; sum the stem's channels. Keras' own ImageNet network has
    one layer more than the one built without weights, and no weights in it."""
    shift = 0.0
    for layer in source.layers:
        values = layer.get_weights()
        if not values or isinstance(layer, layers.Normalization):
            continue
        if layer.name == "stem_conv":
            (kernel,) = values  # (3, 3, 3, 32)
            scale = GRAY_STD / IMAGENET_STD
            shift = np.einsum("hwco,c->o", kernel, (GRAY_MEAN - IMAGENET_MEAN) / IMAGENET_STD)
            values = [np.einsum("hwco,c->hwo", kernel, scale)[:, :, np.newaxis]]
        elif layer.name == "stem_bn":
            gamma, beta, moving_mean, moving_variance = values
            values = [gamma, beta, moving_mean - shift, moving_variance]
        target.get_layer(layer.name).set_weights(values)
