"""Draw the evidence for a score over the film."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cxr.lungs import Lungs, upsample

HEIGHTS = ("upper", "middle", "lower")
OUTLINE = (79, 209, 224)  # RGB of the lungs' outline: a blue that inferno does not have

# inferno of matplotlib, by Stefan van der Walt and Nathaniel Smith (CC0): uint8 (256, 3), RGB
INFERNO = np.frombuffer(
    bytes.fromhex(
        "00000401000501010601010802010a02020c02020e03021004031204031405041706041907051b08051d09061f0a0722"
        "0b07240c08260d08290e092b10092d110a30120a32140b34150b37160b39180c3c190c3e1b0c411c0c431e0c451f0c48"
        "210c4a230c4c240c4f260c51280b53290b552b0b572d0b592f0a5b310a5c320a5e340a5f3609613809623909633b0964"
        "3d09653e0966400a67420a68440a68450a69470b6a490b6a4a0c6b4c0c6b4d0d6c4f0d6c510e6c520e6d540f6d550f6d"
        "57106e59106e5a116e5c126e5d126e5f136e61136e62146e64156e65156e67166e69166e6a176e6c186e6d186e6f196e"
        "71196e721a6e741a6e751b6e771c6d781c6d7a1d6d7c1d6d7d1e6d7f1e6c801f6c82206c84206b85216b87216b88226a"
        "8a226a8c23698d23698f24699025689225689326679526679727669827669a28659b29649d29649f2a63a02a63a22b62"
        "a32c61a52c60a62d60a82e5fa92e5eab2f5ead305dae305cb0315bb1325ab3325ab43359b63458b73557b93556ba3655"
        "bc3754bd3853bf3952c03a51c13a50c33b4fc43c4ec63d4dc73e4cc83f4bca404acb4149cc4248ce4347cf4446d04545"
        "d24644d34743d44842d54a41d74b3fd84c3ed94d3dda4e3cdb503bdd513ade5238df5337e05536e15635e25734e35933"
        "e45a31e55c30e65d2fe75e2ee8602de9612bea632aeb6429eb6628ec6726ed6925ee6a24ef6c23ef6e21f06f20f1711f"
        "f1731df2741cf3761bf37819f47918f57b17f57d15f67e14f68013f78212f78410f8850ff8870ef8890cf98b0bf98c0a"
        "f98e09fa9008fa9207fa9407fb9606fb9706fb9906fb9b06fb9d07fc9f07fca108fca309fca50afca60cfca80dfcaa0f"
        "fcac11fcae12fcb014fcb216fcb418fbb61afbb81dfbba1ffbbc21fbbe23fac026fac228fac42afac62df9c72ff9c932"
        "f9cb35f8cd37f8cf3af7d13df7d340f6d543f6d746f5d949f5db4cf4dd4ff4df53f4e156f3e35af3e55df2e661f2e865"
        "f2ea69f1ec6df1ed71f1ef75f1f179f2f27df2f482f3f586f3f68af4f88ef5f992f6fa96f8fb9af9fc9dfafda1fcffa4"
    ),
    np.uint8,
).reshape(256, 3)


def overlay_evidence(
    image: np.ndarray, evidence: np.ndarray, scale: float, opacity: float = 0.6
) -> np.ndarray:
    """Blend the evidence for PNEUMONIA over the film.

    Args:
        image: uint8 (H, W), the film.
        evidence: float32 (h, w), log-odds per cell, as in ``Prediction.evidence``.
        scale: the evidence that is drawn in full color, > 0; the card's ``evidence_scale``.
        opacity: opacity of the full color, 0..1.

    Returns:
        uint8 (H, W, 3), RGB, not contiguous.

    Raises:
        ValueError: if scale or opacity is out of range.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"received opacity {opacity}; accepted is 0..1")
    levels = _quantize_evidence(evidence, scale, image.shape)
    alpha = np.arange(256)[:, np.newaxis] * (opacity / 255.0)
    gray = np.arange(256)[:, np.newaxis, np.newaxis]
    blends = np.empty((256, 256, 4), np.uint8)  # for each gray level and each level of evidence
    blends[..., :3] = np.rint(gray * (1.0 - alpha) + INFERNO * alpha)
    index = (image.astype(np.uint16) << 8) | levels
    blended = np.take(blends.view(np.uint32).ravel(), index).view(np.uint8)
    return blended.reshape(*image.shape, 4)[..., :3]


def locate_evidence(evidence: np.ndarray, lungs: Lungs) -> dict[str, float]:
    """The share of the evidence for PNEUMONIA in each zone of the lungs.

    Args:
        evidence: float32 (80, 80), as in ``Prediction.evidence``.
        lungs: where the lungs are.

    Returns:
        The shares, 0..1, by zone, ``right upper`` to ``left lower``, the largest first. Right and left
        are the child's, as on a film that is seen from the front; upper, middle and lower are thirds of
        the height of the lungs. Empty if there is no evidence for PNEUMONIA, or no lungs were found.
    """
    positive = np.maximum(evidence, 0.0)
    if lungs.box is None or not positive.any():
        return {}
    mask = upsample(lungs.mask, evidence.shape) >= 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    middle = (columns[0] + columns[-1] + 1) / 2
    thirds = np.linspace(rows[0], rows[-1] + 1, len(HEIGHTS) + 1)
    shares = {}
    for i, height in enumerate(HEIGHTS):
        low = 0 if i == 0 else round(thirds[i])
        high = len(evidence) if i == len(HEIGHTS) - 1 else round(thirds[i + 1])
        for side, part in (("right", slice(0, round(middle))), ("left", slice(round(middle), None))):
            shares[f"{side} {height}"] = float(positive[low:high, part].sum() / positive.sum())
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def color_evidence(evidence: np.ndarray, scale: float, shape: tuple[int, int]) -> np.ndarray:
    """Color the evidence for PNEUMONIA as a layer that can be drawn over the film.

    The map is upsampled bicubically and colored with inferno, which is perceptually uniform. The
    scale is fixed and not the map's own maximum, so that two films can be compared and a NORMAL film
    stays gray. Evidence against PNEUMONIA (negative) is not drawn.

    Args:
        evidence: float32 (h, w), log-odds per cell.
        scale: the evidence that is drawn in full color, > 0.
        shape: height and width of the layer, px.

    Returns:
        uint8 (H, W, 4), RGBA; alpha grows with the evidence.

    Raises:
        ValueError: if scale is out of range.
    """
    levels = _quantize_evidence(evidence, scale, shape)
    return np.dstack([INFERNO[levels], levels])


def outline_lungs(lungs: Lungs, shape: tuple[int, int]) -> np.ndarray:
    """Draw the outline of the lungs as a layer that can be drawn over the film.

    Args:
        lungs: where the lungs are.
        shape: height and width of the layer, px.

    Returns:
        uint8 (H, W, 4), RGBA: a line two pixels wide, transparent elsewhere.
    """
    inside = upsample(lungs.mask, shape) >= 0.5
    padded = np.pad(inside, 2)  # so that lungs at an edge are closed
    deep = padded[:-4, 2:-2] & padded[4:, 2:-2] & padded[2:-2, :-4] & padded[2:-2, 4:]
    layer = np.zeros((*shape, 4), np.uint8)
    layer[inside & ~deep] = (*OUTLINE, 255)
    return layer


def _quantize_evidence(evidence: np.ndarray, scale: float, shape: tuple[int, int]) -> np.ndarray:
    """Upsample evidence to levels, uint8 (H, W): 0 for none or less, 255 for ``scale`` or more."""
    if scale <= 0:
        raise ValueError(f"received scale {scale}; accepted is > 0")
    height, width = shape
    cells = np.clip(np.nan_to_num(evidence * (255.0 / scale)), -1e6, 1e6).astype(np.float32)
    strength = Image.fromarray(cells + 0.5).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(strength.convert("L"))  # truncates, and clips to 0..255
