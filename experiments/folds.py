"""Images to train on and images held out, by series or by patient."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.shortcuts import sharpness
from training.config import TrainConfig
from training.masks import load_masked
from training.names import parse_path
from training.sources import LabelledImages
from training.validation import CORRUPTION, corrupt

HELD_OUT_FILMS = 300  # of each class, at most
SERIES_FOLDS = {"IM+bacteria": ("IM", "bacteria"), "NORMAL2+virus": ("NORMAL2-IM", "virus")}
PATIENTS_FOLD = "patients"  # the ordinary validation split, for comparison

# resampling and JPEG are among the levers, so the corruption that measures them leaves them out
YARDSTICK = dataclasses.replace(CORRUPTION, copy_share=0.0)


@dataclasses.dataclass(frozen=True)
class Fold:
    """Images and masks, uint8 (N, F, F, 2), to train on and held out."""

    name: str
    train: LabelledImages
    inner: LabelledImages  # validation patients of the trained series, for thresholds
    inner_corrupted: np.ndarray
    held_out: LabelledImages
    held_out_corrupted: np.ndarray
    sharpness: np.ndarray  # (N,) of the held-out images, measured at ``film_size``


def make_folds(data: str, config: TrainConfig) -> list[Fold]:
    """The two leave-series-out folds, whose held-out images are disjoint, and the split by patient."""
    parts = [load_masked(data, config.masks, split, config.film_size) for split in ("train", "val")]
    images, labels = (np.concatenate([getattr(p, n) for p in parts]) for n in ("images", "labels"))
    films = LabelledImages(images, labels, [path for part in parts for path in part.paths])
    in_validation = np.array([parse_path(path).split == "val" for path in films.paths])
    folds = []
    for name, held in [*SERIES_FOLDS.items(), (PATIENTS_FOLD, None)]:
        is_held = np.isin(films.series, held) if held else in_validation
        inner = films.select(~is_held & in_validation if held else is_held)
        held_out = films.select(_draw_each_class(films.labels, is_held))
        folds.append(
            Fold(
                name=name,
                train=films.select(~is_held & ~in_validation),
                inner=inner,
                inner_corrupted=corrupt(inner.images, YARDSTICK),
                held_out=held_out,
                held_out_corrupted=corrupt(held_out.images, YARDSTICK),
                sharpness=np.array([sharpness(layers[..., 0]) for layers in held_out.images]),
            )
        )
    return folds


def _draw_each_class(labels: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Draw at most ``HELD_OUT_FILMS`` members of each class. Returns sorted indices."""
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(np.flatnonzero(members & (labels == y)))[:HELD_OUT_FILMS] for y in (0, 1)]
    return np.sort(np.concatenate(drawn))
