"""Augmentation against the shortcuts of this data set, in tf.data.

In the training split NORMAL films are sharper and blacker than PNEUMONIA films, and children with
pneumonia are framed differently; a network learns that before it learns lungs. So framing, sharpness
and gray levels are drawn anew for each film, wider than any two departments differ.
"""

from __future__ import annotations

import math

import tensorflow as tf

WHOLE_FRAME_SHARE = 0.3  # of films are not cropped: what the network sees in use must not be rare
CROP_AREA = (0.1, 1.0)  # share of the frame, of the others
CROP_ASPECT = (0.75, 1.33)
ROTATION_DEG = 10.0
SHARPEN = (-1.0, 1.2)  # -1: replaced by its blur; 1.2: unsharp mask of 120 %
CONVOLUTION_SHARE = 0.4  # of films go through a random 3x3 convolution, which shuffles texture
LOG_GAMMA = 0.7
CONTRAST = (0.5, 1.5)
BRIGHTNESS = 0.1  # of full scale


def augment(
    film: tf.Tensor, image_size: int, seed: tf.Tensor, crop_area: tuple[float, float] = CROP_AREA
) -> tf.Tensor:
    """One film to one augmented network input; the same seed gives the same result.

    Args:
        film: uint8 (F, F, 1).
        image_size: side of the result, px.
        seed: int32 (2,).
        crop_area: range of the share of the frame that is kept.

    Returns:
        float32 (image_size, image_size, 1), 0..255.
    """
    seeds = tf.unstack(tf.random.split(seed, 5))
    image = tf.cast(film, tf.float32)
    image = _rotate_and_flip(image, seeds[0])
    image = _crop_and_resize(image, image_size, seeds[1], crop_area)
    image = image / 255.0
    image = _sharpen_or_blur(image, seeds[2])
    image = _convolve(image, seeds[3])
    image = _change_gray_levels(image, seeds[4])
    return tf.clip_by_value(image, 0.0, 1.0) * 255.0


def _uniform(seed: tf.Tensor, count: int, low: float = 0.0, high: float = 1.0) -> list[tf.Tensor]:
    return tf.unstack(tf.random.stateless_uniform((count,), seed, low, high))


def _rotate_and_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    turn, flip = _uniform(seed, 2, -1.0, 1.0)
    angle = turn * ROTATION_DEG * math.pi / 180.0
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
    image: tf.Tensor, image_size: int, seed: tf.Tensor, crop_area: tuple[float, float]
) -> tf.Tensor:
    area, aspect, left, top, whole = _uniform(seed, 5)
    side = tf.cast(tf.shape(image)[0], tf.float32)
    area = crop_area[0] + area * (crop_area[1] - crop_area[0])
    low, high = (math.log(a) for a in CROP_ASPECT)
    aspect = tf.exp(low + aspect * (high - low))
    area = tf.where(whole < WHOLE_FRAME_SHARE, 1.0, area)
    aspect = tf.where(whole < WHOLE_FRAME_SHARE, 1.0, aspect)
    height = tf.minimum(tf.sqrt(area / aspect), 1.0) * side
    width = tf.minimum(tf.sqrt(area * aspect), 1.0) * side
    rows, columns = tf.cast(height, tf.int32), tf.cast(width, tf.int32)
    y = tf.cast(top * (side - height), tf.int32)
    x = tf.cast(left * (side - width), tf.int32)
    crop = image[y : y + rows, x : x + columns]
    return tf.image.resize(crop, (image_size, image_size), antialias=True)


def _sharpen_or_blur(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    (amount,) = _uniform(seed, 1, *SHARPEN)
    taps = tf.constant([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
    return image + amount * (image - _convolve_same(image, taps[:, None] * taps[None, :]))


def _convolve(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A random 3x3 kernel, scaled to sum 1 so that gray levels stay (after Xu et al. 2021, RandConv)."""
    seeds = tf.random.split(seed, 2)
    noise = tf.random.stateless_normal((3, 3), seeds[0], stddev=0.15)
    identity = tf.constant([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    kernel = identity + noise - tf.reduce_mean(noise)
    (draw,) = _uniform(seeds[1], 1)
    return tf.cond(draw < CONVOLUTION_SHARE, lambda: _convolve_same(image, kernel), lambda: image)


def _convolve_same(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    margin = kernel.shape[0] // 2
    padded = tf.pad(image, [[margin, margin], [margin, margin], [0, 0]], "REFLECT")
    return tf.nn.conv2d(padded[tf.newaxis], kernel[:, :, None, None], 1, "VALID")[0]


def _change_gray_levels(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    gamma, contrast, brightness = _uniform(seed, 3, -1.0, 1.0)
    image = tf.clip_by_value(image, 0.0, 1.0) ** tf.exp(gamma * LOG_GAMMA)
    middle = (CONTRAST[0] + CONTRAST[1]) / 2.0
    factor = middle + contrast * (CONTRAST[1] - CONTRAST[0]) / 2.0
    mean = tf.reduce_mean(image)
    return (image - mean) * factor + mean + brightness * BRIGHTNESS
