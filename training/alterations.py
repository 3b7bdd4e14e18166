"""Images changed in their lungs or around them: erased, covered, or put into the frame of another.

They show what a score follows. The masks decide what is lung. A mask is widened and its edge is made soft
before an image is changed, so that no outline of the lungs is left.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from cxr.imaging import preprocess
from cxr.lungs import find_box
from training.sources import LabelledImages

WIDENED = 0.03  # of the side, by which a mask is widened
SOFTENED = 0.015  # of the side, standard deviation of the soft edge
BLUR = 0.07  # of the side, standard deviation of a strong blur
NOISE = 60.0  # gray levels, standard deviation

Filling = Callable[[np.ndarray], np.ndarray]


def fill_gray(image: np.ndarray) -> np.ndarray:
    """The median gray of an image, float32 (H, W)."""
    return np.full(image.shape, np.median(image), np.float32)


def fill_blurred(image: np.ndarray) -> np.ndarray:
    """A strong blur of an image, float32 (H, W)."""
    return cv2.GaussianBlur(image.astype(np.float32), None, BLUR * image.shape[0])


def fill_noisy(image: np.ndarray) -> np.ndarray:
    """Noise around the median gray of an image, float32 (H, W); the same for images of one size."""
    noise = np.random.default_rng(0).standard_normal(image.shape) * NOISE
    return np.clip(np.median(image) + noise, 0, 255).astype(np.float32)


def soften(mask: np.ndarray) -> np.ndarray:
    """Widen a mask, uint8 (H, W) of 0..255, and give it a soft edge. Returns float32 (H, W), 0..1."""
    reach = max(round(WIDENED * mask.shape[0]), 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    wide = cv2.dilate((mask > 127).astype(np.float32), kernel)
    return cv2.GaussianBlur(wide, None, SOFTENED * mask.shape[0])


def alter_lungs(image: np.ndarray, mask: np.ndarray, fill: Filling) -> np.ndarray:
    """Replace the lungs of an image by a filling; image and mask are uint8 (H, W)."""
    return _blend(image, fill(image), soften(mask))


def alter_background(image: np.ndarray, mask: np.ndarray, fill: Filling) -> np.ndarray:
    """Replace all but the lungs of an image by a filling; image and mask are uint8 (H, W)."""
    return _blend(fill(image), image, soften(mask))


def transplant(film: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Put the lungs of an image into the frame of another, box upon box.

    Args:
        film: uint8 (F, F, 2), the image and mask that give the lungs.
        frame: uint8 (F, F, 2), the image and mask that give everything else.

    Returns:
        uint8 (F, F, 2), the new image and the mask of its lungs.
    """
    side = len(film)
    source, target = (find_box(layers[..., 1]) for layers in (film, frame))
    affine = np.zeros((2, 3), np.float32)  # from a place in the film to its place in the frame
    for axis in (0, 1):
        scale = (target[axis + 2] - target[axis]) / (source[axis + 2] - source[axis])
        affine[axis, axis] = scale
        affine[axis, 2] = side * (target[axis] - scale * source[axis])
    image = cv2.warpAffine(film[..., 0], affine, (side, side), borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(film[..., 1], affine, (side, side))
    return np.stack([_blend(frame[..., 0], image, soften(mask)), mask], axis=-1)


def transplant_all(films: LabelledImages, seed: int = 0) -> np.ndarray:
    """Each image's lungs in the frame of an image of the other class, drawn at random. Gray levels are
    stretched first, so that the exposures of both do not differ.

    Args:
        films: images and masks uint8 (N, F, F, 2), of both classes.
        seed: of the draw.

    Returns:
        uint8 (N, F, F, 2).
    """
    rng = np.random.default_rng(seed)
    layers = films.images.copy()
    for film in layers:
        film[..., :1] = preprocess(film[..., 0], len(film))
    others = [np.flatnonzero(films.labels != label) for label in (0, 1)]
    return np.stack(
        [
            transplant(film, layers[rng.choice(others[int(label)])])
            for film, label in zip(layers, films.labels, strict=True)
        ]
    )


def _blend(outside: np.ndarray, inside: np.ndarray, share: np.ndarray) -> np.ndarray:
    """uint8 (H, W), mixed from two images (H, W) with the share of the second, 0..1."""
    mixed = outside * (1.0 - share) + inside * share
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
