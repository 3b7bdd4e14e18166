"""Fit what ``cxr.novelty`` compares an image with: a subspace of embeddings, and limits."""

from __future__ import annotations

import dataclasses

import numpy as np
from sklearn.decomposition import PCA

from cxr.novelty import NoveltyModel, round_to_int8, shrink

COMPONENTS = 96
UNFAMILIAR_PERCENTILE = 98.0  # of the validation images
REFUSED_SIGMAS = 3.7  # above the mean of the validation images, on the logarithm
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
    # the full SVD: the default solver works on the covariance, which squares the rounding errors
    analysis = PCA(min(components, len(embeddings)), svd_solver="full").fit(embeddings)
    basis, scale = round_to_int8(analysis.components_)
    template = np.mean([shrink(image) for image in images], axis=0)
    mean = analysis.mean_.astype(np.float32)
    unlimited = NoveltyModel(mean, basis * scale, template, 1.0, np.inf, np.inf)
    residuals = np.array([unlimited.score(e) for e in validation_embeddings])
    residuals = np.maximum(residuals, SMALLEST)  # an untrained network can give residuals of 0
    usual = float(np.median(residuals))
    logs = np.log(residuals / usual)
    return dataclasses.replace(
        unlimited,
        usual=usual,
        unfamiliar=float(np.exp(np.percentile(logs, UNFAMILIAR_PERCENTILE))),
        refused=float(np.exp(logs.mean() + REFUSED_SIGMAS * logs.std())),
    )
