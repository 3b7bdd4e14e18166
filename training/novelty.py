"""Fit what ``cxr`` compares an image with: subspaces of embeddings and of lung shapes, and limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from cxr.lungs import Lungs, describe_shape
from cxr.novelty import NoveltyModel, Subspace, round_to_int8, shrink

COMPONENTS = 96
UNFAMILIAR_PERCENTILE = 98.0  # of the validation images
REFUSED_SIGMAS = 6.5  # above the mean of the validation images, on the logarithm
SHAPE_COMPONENTS = 20
SHAPE_SIGMAS = 3.0  # likewise
SMALLEST = 1e-12


def fit_novelty(
    embeddings: np.ndarray,
    images: np.ndarray,
    validation_embeddings: np.ndarray,
    components: int = COMPONENTS,
) -> NoveltyModel:
    """Learn the subspace from training images, and the limits from validation images.

    Args:
        embeddings: float32 (N, E) of the training images.
        images: uint8 (N, S, S, 1) of the same, as ``preprocess`` gives them.
        validation_embeddings: float32 (V, E) of other patients' images.
        components: dimension of the subspace; N where there are fewer images.
    """
    space, distances = _fit_subspace(embeddings, validation_embeddings, components)
    return NoveltyModel(
        space,
        template=np.mean([shrink(image) for image in images], axis=0),
        unfamiliar=float(np.percentile(distances, UNFAMILIAR_PERCENTILE)),
        refused=limit(distances, REFUSED_SIGMAS),
    )


def fit_shape(train: Sequence[Lungs], validation: Sequence[Lungs]) -> dict[str, Any]:
    """The ``shape`` of a ``LungCard``, from the lungs that were found in images of training patients, and
    the limit from those of other patients. Images without lungs are left out."""
    shapes = [
        [describe_shape(lungs.mask, lungs.box) for lungs in split if lungs.box]
        for split in (train, validation)
    ]
    if not all(shapes):
        raise ValueError("received a network that finds no lungs in any image of a split")
    vectors, validation_vectors = map(np.stack, shapes)
    space, distances = _fit_subspace(vectors, validation_vectors, SHAPE_COMPONENTS)
    return space.to_json() | {"limit": limit(distances, SHAPE_SIGMAS)}


def limit(distances: np.ndarray, sigmas: float) -> float:
    """So many standard deviations above the mean of distances (V,), on the logarithm."""
    logs = np.log(distances)
    return float(np.exp(logs.mean() + sigmas * logs.std()))


def _fit_subspace(
    vectors: np.ndarray, validation_vectors: np.ndarray, components: int
) -> tuple[Subspace, np.ndarray]:
    """The subspace of (N, E), and the distances (V,) of (V, E) from it."""
    # the full SVD: the default solver works on the covariance, which squares the rounding errors
    analysis = PCA(min(components, len(vectors)), svd_solver="full").fit(vectors)
    basis, scale = round_to_int8(analysis.components_)
    mean, components = analysis.mean_.astype(np.float32), basis * scale
    residuals = np.array([Subspace(mean, components, 1.0).distance(v) for v in validation_vectors])
    residuals = np.maximum(residuals, SMALLEST)  # an untrained network can give residuals of 0
    usual = float(np.median(residuals))
    return Subspace(mean, components, usual), residuals / usual
