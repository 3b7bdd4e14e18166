"""Draw where the score came from."""

from __future__ import annotations

import cv2
import numpy as np


def overlay_evidence(
    image: np.ndarray, evidence: np.ndarray, scale: float, opacity: float = 0.6
) -> np.ndarray:
    """Lay the evidence for PNEUMONIA over the film.

    Args:
        image: uint8 (H, W), the film.
        evidence: float32 (h, w), log-odds a cell, as in ``Prediction.evidence``.
        scale: evidence that gets the full color, > 0; the card's ``evidence_scale``.
        opacity: of the full color, 0..1.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ValueError: if scale or opacity is out of range.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"received opacity {opacity}; accepted is 0..1")
    layer = color_evidence(evidence, scale, image.shape)
    alpha = layer[..., 3:] * (opacity / 255.0)
    return np.rint(image[..., np.newaxis] * (1.0 - alpha) + layer[..., :3] * alpha).astype(np.uint8)


def color_evidence(evidence: np.ndarray, scale: float, shape: tuple[int, int]) -> np.ndarray:
    """The evidence for PNEUMONIA as a layer to lay over the film.

    The map is upsampled bicubically and colored with inferno, which is perceptually uniform. The
    scale is fixed, not the map's own maximum, so that two films compare and a NORMAL film stays
    gray. Evidence against PNEUMONIA (negative) is not drawn.

    Args:
        evidence: float32 (h, w), log-odds a cell.
        scale: evidence that gets the full color, > 0.
        shape: height and width of the layer, px.

    Returns:
        uint8 (H, W, 4), RGBA; alpha grows with the evidence.

    Raises:
        ValueError: if scale is out of range.
    """
    if scale <= 0:
        raise ValueError(f"received scale {scale}; accepted is > 0")
    height, width = shape
    strength = cv2.resize(evidence / scale, (width, height), interpolation=cv2.INTER_CUBIC)
    levels = np.rint(np.clip(np.nan_to_num(strength), 0.0, 1.0) * 255).astype(np.uint8)
    color = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return np.dstack([color, levels])
