"""Augmentation against the shortcuts of this data set, in tf.data.

In the training split NORMAL images are sharper and blacker than PNEUMONIA images, and children with
pneumonia are framed differently. A network learns this before it learns lungs. So framing, sharpness
and gray levels are drawn at random for each image, more widely than any two departments differ.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from training.flags import setting

CROP_ASPECT = (0.75, 1.33)
SHARPEN = (-1.0, 1.2)  # -1 replaces the image by its blur; 1.2 is an unsharp mask of 120 %
# logarithms of the smallest and largest gain of each band of detail, the finest first
BANDS = (-1.6, 0.9), (-1.1, 0.8), (-0.7, 0.6)
LOG_GAMMA = 0.7
CONTRAST = 0.5  # more or less
BRIGHTNESS = 0.1  # of full scale
BORDER = 0.2  # of the side, at most, is covered on each side
JPEG_QUALITY = (30.0, 95.0)
RESAMPLING = (0.4, 1.0)  # of the side


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far images are changed. The defaults are those of the published run."""

    # images are whole in use, so whole images must not be rare in training
    whole_frame_share: float = setting(0.3, "share of images that are not cropped")
    crop_area: float = setting(
        0.25, "smallest share that a crop keeps: of the frame, or of the lungs' box"
    )
    rotation_deg: float = setting(10.0, "largest rotation in either direction, degrees")
    style: float = setting(
        1.0,
        "strength of gamma, contrast and brightness, and of blur if --band-gains is 0; 0 for none",
    )
    band_gains: float = setting(
        0.7, "strength of random gains of three bands of detail; 0 for blur or sharpening in their place"
    )
    convolution_share: float = setting(0.4, "share of images that get a random 3x3 convolution")
    border_share: float = setting(
        0.0, "share of images that get a border of one gray, like a collimator's"
    )
    copy_share: float = setting(
        0.3, "share of images that are resampled and compressed to JPEG, like copies"
    )


def augment(film: tf.Tensor, image_size: int, seed: tf.Tensor, settings: Augmentation) -> tf.Tensor:
    """Change one image, and move what is stacked upon it in the same way. The same seed gives the same
    result.

    Args:
        film: uint8 (F, F, C), an image and perhaps its mask.
        image_size: side of the result, px.
        seed: int32 (2,).
        settings: which changes are drawn, and how strong they are.

    Returns:
        float32 (image_size, image_size, C), 0..255.
    """
    seeds = tf.random.split(seed, 7)
    layers = move(tf.cast(film, tf.float32) / 255.0, image_size, seeds[:2], settings)
    image = restyle(layers[..., :1], seeds[2:], settings)
    return tf.concat([image, layers[..., 1:]], axis=-1) * 255.0


def move(layers: tf.Tensor, image_size: int, seeds: tf.Tensor, settings: Augmentation) -> tf.Tensor:
    """Rotate, mirror and crop an image, and whatever is stacked upon it, such as its mask.

    Args:
        layers: float32 (F, F, C).
        image_size: side of the result, px.
        seeds: int32 (2, 2).
        settings: which changes are drawn, and how strong they are.

    Returns:
        float32 (image_size, image_size, C).
    """
    layers = rotate_and_flip(layers, seeds[0], settings.rotation_deg)
    return _crop_and_resize(layers, image_size, seeds[1], settings)


def restyle(image: tf.Tensor, seeds: tf.Tensor, settings: Augmentation) -> tf.Tensor:
    """Change sharpness, gray levels, border and copy quality of float32 (S, S, 1) of 0..1.

    Args:
        image: the image.
        seeds: int32 (5, 2).
        settings: which changes are drawn, and how strong they are.

    Returns:
        float32 (S, S, 1), 0..1.
    """
    if settings.band_gains:
        image = _gain_bands(image, seeds[0], settings.band_gains)
    else:
        image = _sharpen_or_blur(image, seeds[0], settings.style)
    image = _on_share(settings.convolution_share, image, seeds[1], _convolve)
    image = _change_gray_levels(image, seeds[2], settings.style)
    image = _on_share(settings.border_share, image, seeds[3], _cover_border)
    image = _on_share(settings.copy_share, image, seeds[4], _degrade)
    return tf.clip_by_value(image, 0.0, 1.0)


def _uniform(seed: tf.Tensor, count: int, low: float = 0.0, high: float = 1.0) -> list[tf.Tensor]:
    return tf.unstack(tf.random.stateless_uniform((count,), seed, low, high))


def _on_share(
    share: float, image: tf.Tensor, seed: tf.Tensor, change: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """``change(image, seed)`` for a share of the images; the others stay as they are."""
    seeds = tf.random.split(seed, 2)
    (draw,) = _uniform(seeds[1], 1)
    return tf.cond(draw < share, lambda: change(image, seeds[0]), lambda: image)


def rotate_and_flip(image: tf.Tensor, seed: tf.Tensor, rotation_deg: float) -> tf.Tensor:
    """Rotate float32 (F, F, C) by up to ``rotation_deg`` in either direction, and mirror half of them."""
    turn, flip = _uniform(seed, 2, -1.0, 1.0)
    angle = turn * rotation_deg * math.pi / 180.0
    mirror = tf.where(flip < 0.0, -1.0, 1.0)
    centre = (tf.cast(tf.shape(image)[0], tf.float32) - 1.0) / 2.0
    # output (x, y) to input coordinates: a mirror of x, then a rotation about the centre
    a, b = mirror * tf.cos(angle), -tf.sin(angle)
    c, d = mirror * tf.sin(angle), tf.cos(angle)
    transform = [a, b, centre * (1.0 - a - b), c, d, centre * (1.0 - c - d), 0.0, 0.0]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.stack(transform)[tf.newaxis],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]


def _crop_and_resize(
    image: tf.Tensor, image_size: int, seed: tf.Tensor, settings: Augmentation
) -> tf.Tensor:
    area, aspect, left, top, whole = _uniform(seed, 5)
    side = tf.cast(tf.shape(image)[0], tf.float32)
    area = settings.crop_area + area * (1.0 - settings.crop_area)
    low, high = (math.log(a) for a in CROP_ASPECT)
    aspect = tf.exp(low + aspect * (high - low))
    area = tf.where(whole < settings.whole_frame_share, 1.0, area)
    aspect = tf.where(whole < settings.whole_frame_share, 1.0, aspect)
    height = tf.minimum(tf.sqrt(area / aspect), 1.0) * side
    width = tf.minimum(tf.sqrt(area * aspect), 1.0) * side
    rows, columns = tf.cast(height, tf.int32), tf.cast(width, tf.int32)
    y = tf.cast(top * (side - height), tf.int32)
    x = tf.cast(left * (side - width), tf.int32)
    crop = image[y : y + rows, x : x + columns]
    return tf.image.resize(crop, (image_size, image_size), antialias=True)


def _sharpen_or_blur(image: tf.Tensor, seed: tf.Tensor, style: float) -> tf.Tensor:
    amount = style * _uniform(seed, 1, *SHARPEN)[0]
    return image + amount * (image - _smooth(image, 1))


def _gain_bands(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Strengthen or weaken each band of detail by its own factor, as the multiscale processing of
    radiography systems does, each vendor's in its own way (Vuylsteke and Schoeters 1994)."""
    detail = tf.zeros_like(image)
    for octave, (draw, (low, high)) in enumerate(zip(_uniform(seed, len(BANDS)), BANDS, strict=True)):
        smooth = _smooth(image, 2**octave)
        detail += tf.exp(strength * (low + draw * (high - low))) * (image - smooth)
        image = smooth
    return image + detail


def _smooth(image: tf.Tensor, step: int) -> tf.Tensor:
    """Blur float32 (S, S, 1) with a binomial kernel of five taps in each direction, ``step`` px apart."""
    taps = tf.constant([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
    padded = tf.pad(image, [[2 * step, 2 * step], [2 * step, 2 * step], [0, 0]], "REFLECT")[tf.newaxis]
    for kernel in (taps[:, None, None, None], taps[None, :, None, None]):
        padded = tf.nn.conv2d(padded, kernel, 1, "VALID", dilations=step)
    return padded[0]


def _convolve(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Apply a random 3x3 kernel of sum 1, which keeps the gray levels (RandConv, Xu et al. 2021)."""
    noise = tf.random.stateless_normal((3, 3), seed, stddev=0.15)
    identity = tf.constant([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    return _convolve_same(image, identity + noise - tf.reduce_mean(noise))


def _convolve_same(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    margin = kernel.shape[0] // 2
    padded = tf.pad(image, [[margin, margin], [margin, margin], [0, 0]], "REFLECT")
    return tf.nn.conv2d(padded[tf.newaxis], kernel[:, :, None, None], 1, "VALID")[0]


def _change_gray_levels(image: tf.Tensor, seed: tf.Tensor, style: float) -> tf.Tensor:
    gamma, contrast, brightness = (style * draw for draw in _uniform(seed, 3, -1.0, 1.0))
    image = tf.clip_by_value(image, 0.0, 1.0) ** tf.exp(gamma * LOG_GAMMA)
    mean = tf.reduce_mean(image)
    return (image - mean) * (1.0 + contrast * CONTRAST) + mean + brightness * BRIGHTNESS


def _cover_border(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Paint everything outside a random box in one random gray."""
    left, right, top, bottom, gray = _uniform(seed, 5)
    place = tf.linspace(0.0, 1.0, tf.shape(image)[0])
    columns = (place >= left * BORDER) & (place <= 1.0 - right * BORDER)
    rows = (place >= top * BORDER) & (place <= 1.0 - bottom * BORDER)
    return tf.where((rows[:, None] & columns[None, :])[..., None], image, gray)


def _degrade(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Scale down to a random size and up again, then compress to JPEG of a random quality."""
    scale, quality = _uniform(seed, 2)
    size = tf.shape(image)[:2]
    scale = RESAMPLING[0] + scale * (RESAMPLING[1] - RESAMPLING[0])
    smaller = tf.cast(tf.cast(size, tf.float32) * scale, tf.int32)
    image = tf.image.resize(tf.image.resize(image, smaller, antialias=True), size, method="bicubic")
    quality = JPEG_QUALITY[0] + quality * (JPEG_QUALITY[1] - JPEG_QUALITY[0])
    copy = tf.image.adjust_jpeg_quality(tf.clip_by_value(image, 0.0, 1.0), tf.cast(quality, tf.int32))
    return tf.ensure_shape(copy, image.shape)
