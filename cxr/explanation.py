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
    levels = _quantize_evidence(evidence, scale, image.shape)
    alpha = np.arange(256)[:, np.newaxis] * (opacity / 255.0)
    gray = np.arange(256)[:, np.newaxis, np.newaxis]
    blends = np.empty((256, 256, 4), np.uint8)  # every gray level under every level of evidence
    blends[..., :3] = np.rint(gray * (1.0 - alpha) + _color_levels() * alpha)
    index = (image.astype(np.uint16) << 8) | levels
    blended = np.take(blends.view(np.uint32).ravel(), index).view(np.uint8)
    return cv2.cvtColor(blended.reshape(*image.shape, 4), cv2.COLOR_RGBA2RGB)


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
    levels = _quantize_evidence(evidence, scale, shape)
    return np.dstack([_color_levels()[levels], levels])


def _quantize_evidence(evidence: np.ndarray, scale: float, shape: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W) of the evidence upsampled: 0 for none or less, 255 for ``scale`` or more."""
    if scale <= 0:
        raise ValueError(f"received scale {scale}; accepted is > 0")
    height, width = shape
    cells = np.clip(np.nan_to_num(evidence / scale), -1e6, 1e6).astype(np.float32)
    strength = cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.convertScaleAbs(np.maximum(strength, 0.0, out=strength), alpha=255.0)


def _color_levels() -> np.ndarray:
    """uint8 (256, 3), RGB of each level."""
    levels = np.arange(256, dtype=np.uint8)[np.newaxis]
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)[0]
