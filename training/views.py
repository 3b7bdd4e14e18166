"""What the classifier sees: the box of the lungs, cut out of the image, and their mask as a second layer.

A network that is trained on chest images learns from their frames as well: markers, collimation, the
position of the child. So in training the lungs keep their label while what lies around them changes, up
to the frame of another image; and images without their lungs get a target of one half. Sources of the
idea: DeGrave et al. 2021, Teixeira et al. 2021, Ross et al. 2017.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from cxr.imaging import cut_out, preprocess
from cxr.lungs import BOX_QUANTILE, MARGIN, lung_box
from training.augmentation import CROP_ASPECT, Augmentation, restyle, rotate_and_flip
from training.flags import setting

LARGEST_AREA = 1.3  # of the box with its margin
EDGE = 0.07  # of the side: how far a mask is widened, and how wide its edge is then
BLURS = (3.0, 14.0)  # cells along the side that are left of a blurred image
PERCENTILE_STEP = 4  # px between those that the percentiles are taken of


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """How often images are changed around their lungs. The defaults are those of the published run."""

    swapped_share: float = setting(
        0.4, "share of images with their lungs that are put into another's frame"
    )
    background_share: float = setting(
        0.6, "share of the others whose surroundings are covered or changed"
    )
    erased_share: float = setting(
        0.2, "share of images whose lungs are erased, with a target of one half"
    )


def view_films(layers: np.ndarray, size: int) -> np.ndarray:
    """What the classifier sees of images with their masks, as the runtime prepares them.

    Args:
        layers: uint8 (N, F, F, 2), image and mask.
        size: side of the view, px.

    Returns:
        uint8 (N, size, size, 2).
    """
    views = np.empty((len(layers), size, size, 2), np.uint8)
    for view, film in zip(views, layers, strict=True):
        box = lung_box(film[..., 1])
        view[..., :1] = preprocess(film[..., 0], size, box)
        view[..., 1] = cut_out(film[..., 1], (size, size), box)
    return views


def augment_view(
    film: tf.Tensor,
    other: tf.Tensor,
    size: int,
    seed: tf.Tensor,
    settings: Augmentation,
    surroundings: Surroundings,
) -> tuple[tf.Tensor, tf.Tensor]:
    """An augmented view. The same seed gives the same result.

    Args:
        film: uint8 (F, F, 2), image and mask.
        other: uint8 (F, F, 2), an image, with its mask, that may give the frame.
        size: side of the view, px.
        seed: int32 (2,).
        settings: changes of the whole image.
        surroundings: changes around the lungs, or of the lungs.

    Returns:
        float32 (size, size, 2), 0..255, and whether the lungs were erased, bool ().
    """
    seeds = tf.random.split(seed, 12)
    window = tf.random.stateless_uniform((5,), seeds[0])
    view = _cut_out(film, window, size, seeds[1], settings)
    image, mask = view[..., :1], view[..., 1:]
    around = 1.0 - _soften(mask)
    swap, change, erase = tf.unstack(tf.random.stateless_uniform((3,), seeds[2]))
    is_erased = erase < surroundings.erased_share

    def swap_frame() -> tf.Tensor:
        frame = _cut_out(other, window, size, seeds[3], settings)[..., :1]
        return image + around * (frame - image)

    def change_around() -> tf.Tensor:
        return image + around * (_draw_filling(image, seeds[3:5], settings) - image)

    def erase_lungs() -> tf.Tensor:
        return image + (1.0 - around) * (_draw_filling(image, seeds[3:5], None) - image)

    changed = tf.case(
        [
            (is_erased, erase_lungs),
            (swap < surroundings.swapped_share, swap_frame),
            (change < surroundings.background_share, change_around),
        ],
        default=lambda: image,
    )
    image = restyle(_stretch(changed), seeds[5:10], settings)
    return tf.concat([image, mask], axis=-1) * 255.0, is_erased


def _cut_out(
    film: tf.Tensor, window: tf.Tensor, size: int, seed: tf.Tensor, settings: Augmentation
) -> tf.Tensor:
    """Rotate and mirror uint8 (F, F, 2), and cut out a window at the lungs: float32 (S, S, 2), 0..1.

    The window (5,) is drawn relative to the box, so that with the same window the lungs of two images
    come to lie in the same place.
    """
    layers = rotate_and_flip(tf.cast(film, tf.float32) / 255.0, seed, settings.rotation_deg)
    area, aspect, left, top, whole = tf.unstack(window)
    area = settings.crop_area + area * (LARGEST_AREA - settings.crop_area)
    low, high = (math.log(a) for a in CROP_ASPECT)
    aspect = tf.exp(low + aspect * (high - low))
    area, aspect = (tf.where(whole < settings.whole_frame_share, 1.0, x) for x in (area, aspect))
    edges = []
    sides = (tf.sqrt(area * aspect), left), (tf.sqrt(area / aspect), top)
    for (low, high), (side, place) in zip(find_edges(layers[..., 1]), sides, strict=True):
        start = low + place * (1.0 - side) * (high - low)
        edges.append((tf.maximum(start, 0.0), tf.minimum(start + side * (high - low), 1.0)))
    (x0, x1), (y0, y1) = edges
    cut = tf.image.crop_and_resize(layers[tf.newaxis], [[y0, x0, y1, x1]], [0], (size, size))[0]
    return tf.concat([_stretch(cut[..., :1]), cut[..., 1:]], axis=-1)


def find_edges(mask: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """The box of a mask (F, F) as ``lung_box`` finds it: (x0, x1) and (y0, y1), shares of the side."""
    edges = []
    for axis in (0, 1):
        total = tf.cumsum(tf.reduce_sum(mask, axis))
        shares = total / tf.maximum(total[-1], 1e-6)
        count = tf.cast(tf.size(total), tf.float32)
        low = tf.reduce_sum(tf.cast(shares < BOX_QUANTILE, tf.float32)) / count
        high = 1.0 - tf.reduce_sum(tf.cast(shares > 1.0 - BOX_QUANTILE, tf.float32)) / count
        low, high = (tf.where(total[-1] > 0.0, edge, whole) for edge, whole in ((low, 0.0), (high, 1.0)))
        margin = MARGIN * (high - low)
        edges.append((tf.maximum(low - margin, 0.0), tf.minimum(high + margin, 1.0)))
    return edges


def _stretch(image: tf.Tensor) -> tf.Tensor:
    """Stretch the gray levels of float32 (S, S, 1), as ``preprocess`` does, but from fewer pixels."""
    values = tf.sort(tf.reshape(image[::PERCENTILE_STEP, ::PERCENTILE_STEP], (-1,)))
    count = values.shape[0]
    low, high = values[round(0.01 * (count - 1))], values[round(0.99 * (count - 1))]
    return tf.clip_by_value((image - low) / tf.maximum(high - low, 1.0 / 255.0), 0.0, 1.0)


def _soften(mask: tf.Tensor) -> tf.Tensor:
    """Widen a mask, float32 (S, S, 1), and give it a soft edge."""
    side = round(mask.shape[0] * EDGE) // 2 * 2 + 1
    wide = tf.nn.max_pool2d(mask[tf.newaxis], side, 1, "SAME")
    return tf.nn.avg_pool2d(wide, side, 1, "SAME")[0]


def _draw_filling(image: tf.Tensor, seeds: tf.Tensor, settings: Augmentation | None) -> tf.Tensor:
    """An image to cover a part of float32 (S, S, 1) with: one gray, a strong blur or noise, or, if
    settings are given, the image itself in another style."""
    kind, gray, blur, strength = tf.unstack(tf.random.stateless_uniform((4,), seeds[0]))
    median = tf.sort(tf.reshape(image[::PERCENTILE_STEP, ::PERCENTILE_STEP], (-1,)))
    gray = tf.where(strength < 0.5, gray, median[median.shape[0] // 2])  # half of them: the median
    side = image.shape[0]

    def fill() -> tf.Tensor:
        return tf.fill(tf.shape(image), gray)

    def smear() -> tf.Tensor:
        cells = tf.cast(BLURS[0] + blur * (BLURS[1] - BLURS[0]), tf.int32)
        small = tf.image.resize(image, tf.stack([cells, cells]), antialias=True)
        return tf.ensure_shape(tf.image.resize(small, (side, side), "bicubic"), image.shape)

    def sprinkle() -> tf.Tensor:
        noise = tf.random.stateless_normal(tf.shape(image), seeds[1], gray, 0.3 * strength)
        return tf.clip_by_value(noise, 0.0, 1.0)

    def change() -> tf.Tensor:
        return restyle(image, tf.random.split(seeds[1], 5), settings)

    fillings: list[Callable[[], tf.Tensor]] = [fill, smear, sprinkle]
    if settings:
        fillings.append(change)
    return tf.switch_case(tf.cast(kind * len(fillings), tf.int32), fillings)
