"""How unlike the training images an image is: the distance of its features from their subspace.

The embeddings of the training images lie near a subspace. The distance of an embedding from it (the
residual of a principal component analysis) is small for images of the same kind and large for
photographs, scans and text (Hawkins 1974; for images in networks, Guan et al. 2023). It is given as a
multiple of the median over the validation images, so 1 is usual. ``cxr.lungs`` compares the shapes of
lungs in the same way. ``training.novelty`` fits the subspaces and the limits.

Images with inverted gray levels, with white air, are detected by their correlation with the mean image.
"""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

import numpy as np
from PIL import Image

TYPICAL, UNFAMILIAR, REFUSED = "typical", "unfamiliar", "refused"
TEMPLATE_PX = 16
INVERTED_CORRELATION = -0.3  # validation images are above +.4, their negatives below -.5


@dataclasses.dataclass(frozen=True)
class Subspace:
    """The plane near which the feature vectors of the training images lie.

    Attributes:
        mean: float32 (E,), the mean vector of the training images.
        components: float32 (K, E), orthonormal up to rounding to 8 bits.
        usual: the median distance of the validation images, > 0.
    """

    mean: np.ndarray
    components: np.ndarray
    usual: float

    def distance(self, vector: np.ndarray) -> float:
        """Distance of float32 (E,), at least 0, as a multiple of the usual one."""
        difference = vector - self.mean
        residual = difference - (self.components @ difference) @ self.components
        return float(np.linalg.norm(residual)) / self.usual

    def to_json(self) -> dict[str, Any]:
        """Statistics for a card: float32 arrays in base64, and int8 components with a scale each."""
        basis, scale = round_to_int8(self.components)
        return {
            "usual": self.usual,
            "mean": _encode(self.mean.astype(np.float32)),
            "scales": _encode(scale[:, 0].astype(np.float32)),
            "components": _encode(basis),
        }

    @classmethod
    def from_json(cls, card: dict[str, Any]) -> Subspace:
        """The inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: if fields are missing or do not fit together.
        """
        mean, scales = (_decode(card[name], np.float32) for name in ("mean", "scales"))
        basis = _decode(card["components"], np.int8).reshape(len(scales), len(mean))
        usual = float(card["usual"])
        if not all(np.isfinite(array).all() for array in (mean, scales)) or not usual > 0:
            raise ValueError("mean, scales or usual of NaN, infinity or 0")
        return cls(mean, basis * scales[:, np.newaxis], usual)


@dataclasses.dataclass(frozen=True)
class NoveltyModel:
    """The subspace of the training images' embeddings, and the limits of the distance from it.

    Attributes:
        space: the subspace.
        template: float32 (16, 16), the mean training image, of mean 0.
        unfamiliar: novelty above which an image is unlike those of training.
        refused: novelty above which it is not a frontal chest radiograph.
    """

    space: Subspace
    template: np.ndarray
    unfamiliar: float
    refused: float

    def score(self, embedding: np.ndarray) -> float:
        """Novelty of an embedding float32 (E,), at least 0. A value of 1 is usual."""
        return self.space.distance(embedding)

    def screen(self, novelty: float) -> str:
        """``typical``, ``unfamiliar`` or ``refused``."""
        if novelty > self.refused:
            return REFUSED
        return UNFAMILIAR if novelty > self.unfamiliar else TYPICAL

    def looks_inverted(self, image: np.ndarray) -> bool:
        """Whether a prepared image, uint8 (S, S, 1), is the negative of a chest radiograph."""
        shrunk = shrink(image)
        lengths = np.linalg.norm(shrunk) * np.linalg.norm(self.template)
        return bool(np.sum(shrunk * self.template) < INVERTED_CORRELATION * lengths)

    def to_json(self) -> dict[str, Any]:
        """Statistics for the card."""
        return self.space.to_json() | {
            "unfamiliar": self.unfamiliar,
            "refused": self.refused,
            "template": _encode(self.template.astype(np.float32)),
        }

    @classmethod
    def from_json(cls, card: dict[str, Any]) -> NoveltyModel:
        """The inverse of ``to_json``.

        Raises:
            ValueError: if fields are missing or do not fit together.
        """
        try:
            template = _decode(card["template"], np.float32).reshape(TEMPLATE_PX, TEMPLATE_PX)
            limits = {name: float(card[name]) for name in ("unfamiliar", "refused")}
            if not np.isfinite(template).all() or not 0 < limits["unfamiliar"] < limits["refused"]:
                raise ValueError(f"template of NaN or infinity, or limits {limits}")
            return cls(Subspace.from_json(card), template, **limits)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"received novelty statistics that cannot be used: {error}") from error


def shrink(image: np.ndarray) -> np.ndarray:
    """The coarse layout of a prepared image, float32 (16, 16), of mean 0."""
    small = Image.fromarray(image[..., 0]).resize((TEMPLATE_PX, TEMPLATE_PX), Image.Resampling.BOX)
    small = np.asarray(small, np.float32)
    return small - small.mean()


def round_to_int8(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round rows to int8. Returns int8 (K, E) and the scale of each row, float32 (K, 1)."""
    scale = (np.abs(rows).max(axis=1, keepdims=True) / 127).astype(np.float32)
    return np.rint(rows / scale).astype(np.int8), scale


def _encode(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _decode(text: str, dtype: type) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype)
