"""What each lever of the recipe is worth where the films are of a series never trained on.

Random validation patients saturate near an AUROC of 1 and do not see the shift between this data set's
training and test films. Leaving out one series of normal films and one cause of pneumonia does: the
network is trained on the others and asked about those. Each lever is one change to a base
recipe, on small films and few steps, over several seeds; each run's logits are kept, so that a stopped
study goes on where it was and tables cost nothing::

    python -m experiments.ablate run --data data/chest_xray --weights FILE.h5 --external data/nih_adults
    python -m experiments.ablate table
    python -m experiments.ablate thresholds

The official test split is not read.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import tf_keras
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from cxr.imaging import preprocess, read_image
from experiments.shortcuts import sharpness
from training.augmentation import Augmentation
from training.averaging import WeightAverage, write_weights
from training.batches import training_batches
from training.calibration import fit_calibration
from training.config import TrainConfig
from training.flags import from_flat, to_flat
from training.model import build_from, set_trainable
from training.names import list_labelled, parse_path
from training.optimization import compile_model
from training.run_folder import check_run, write_config
from training.sources import LabelledImages, load_films
from training.validation import CORRUPTION, corrupt, predict_logits

STEPS = 100
SEEDS = 3
HELD_OUT_FILMS = 300  # of each class, at most
# the published recipe at a smaller size, before resampling and JPEG were added to it
PROBE = TrainConfig(
    name="ablation", image_size=96, average_steps=40, augmentation=Augmentation(copy_share=0.0)
)
SERIES_FOLDS = {"IM+bacteria": ("IM", "bacteria"), "NORMAL2+virus": ("NORMAL2-IM", "virus")}
PATIENTS_FOLD = "patients"  # the ordinary validation split, for comparison
BASE = "base"
LEVERS: dict[str, dict[str, float]] = {
    BASE: {},
    "no style changes": {"style": 0.0, "convolution_share": 0.0},
    "covered borders": {"border_share": 0.5},
    "resampling and JPEG": {"copy_share": 0.3},
    "MixUp 0.2": {"mixup": 0.2},
    "crops from a quarter": {"crop_area": 0.25},
    "no averaging": {"average_steps": 1},
    "no label smoothing": {"label_smoothing": 0.0},
    "no whole frames": {"whole_frame_share": 0.0},
    "no cause head": {"cause_weight": 0.0},
    "dropout 0.5": {"dropout": 0.5},
    "weight decay 1e-3": {"weight_decay": 1e-3},
    "norms trained": {"freeze_norms": False},
}

# resampling and JPEG are on trial, so the yardstick is without them
YARDSTICK = dataclasses.replace(CORRUPTION, copy_share=0.0)


@dataclasses.dataclass(frozen=True)
class Fold:
    """Films at ``film_size`` to train on, and films held out at the network's size."""

    name: str
    train: LabelledImages
    inner: LabelledImages  # validation patients of the trained series: where thresholds come from
    inner_corrupted: np.ndarray
    held_out: LabelledImages
    held_out_corrupted: np.ndarray
    sharpness: np.ndarray  # (N,) of the held-out films, stretched but not yet small


def make_folds(data: str, config: TrainConfig) -> list[Fold]:
    """The two leave-series-out folds, whose held-out films are disjoint, and the patient-wise split."""
    parts = [load_films(data, split, config.film_size) for split in ("train", "val")]
    images, labels = (np.concatenate([getattr(p, n) for p in parts]) for n in ("images", "labels"))
    films = LabelledImages(images, labels, [path for part in parts for path in part.paths])
    in_validation = np.array([parse_path(path).split == "val" for path in films.paths])
    folds = []
    for name, held in [*SERIES_FOLDS.items(), (PATIENTS_FOLD, None)]:
        is_held = np.isin(films.series, held) if held else in_validation
        inner = _resize(films.select(~is_held & in_validation if held else is_held), config.image_size)
        chosen = films.select(_draw_each_class(films.labels, is_held))
        held_out = _resize(chosen, config.image_size)
        folds.append(
            Fold(
                name=name,
                train=films.select(~is_held & ~in_validation),
                inner=inner[0],
                inner_corrupted=inner[1],
                held_out=held_out[0],
                held_out_corrupted=held_out[1],
                sharpness=np.array([sharpness(image[..., 0]) for image in chosen.images]),
            )
        )
    return folds


def run_probe(fold: Fold, config: TrainConfig, steps: int) -> tf_keras.Model:
    """Fine-tune all of a fresh network for ``steps`` on the fold; the averaged weights stay in it."""
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(config.seed)
    model = build_from(config, config.weights)
    set_trainable(model, True, config.freeze_until, config.freeze_norms)
    compile_model(model, config, config.learning_rate, steps)
    average = WeightAverage(model, config.average_steps)
    batches = training_batches(fold.train.to_dataset(), config, epoch=0)
    model.fit(batches, steps_per_epoch=steps, callbacks=[average], verbose=0)
    write_weights(model, average.weights())
    return model


def study(
    out: Path,
    config: TrainConfig,
    levers: list[str],
    folds: list[str],
    external: Path | None,
    steps: int,
) -> None:
    """Train and keep what is not there yet: a file ``<lever>--<fold>--<seed>.npz`` a run in ``out``.

    Args:
        out: folder of the logits.
        config: the base recipe; names data and initial weights.
        levers: keys of ``LEVERS``.
        folds: names of folds.
        external: a labelled folder of another hospital, measured as well.
        steps: of each run.

    Raises:
        ValueError: if ``out`` holds runs of another recipe, or the data cannot be used.
    """
    settings = to_flat(config) | {"steps": steps, "external": external is not None}
    check_run(out, settings, resume=True)
    write_config(out, settings)
    other_labels = np.zeros(0)
    if external:
        listed = list_labelled(external, "val")
        others = np.stack([preprocess(read_image(path), config.image_size) for path, _, _ in listed])
        other_labels = np.array([label for _, label, _ in listed])
    made = [fold for fold in make_folds(config.data, config) if fold.name in folds]
    for lever in levers:
        for seed in range(SEEDS):
            for fold in made:
                path = out / f"{lever}--{fold.name}--{seed}.npz"
                if path.exists():
                    continue
                changed = from_flat(TrainConfig, to_flat(config) | LEVERS[lever] | {"seed": seed})
                model = run_probe(fold, changed, steps)
                logits = {name: predict_logits(model, x)[:, 0] for name, x in _images(fold).items()}
                if external:
                    logits["external"] = predict_logits(model, others)[:, 0]
                arrays = {
                    "inner_labels": fold.inner.labels,
                    "held_out_labels": fold.held_out.labels,
                    "external_labels": other_labels,
                    "sharpness": fold.sharpness,
                }
                with path.with_suffix(".part").open("wb") as file:
                    np.savez(file, **arrays, **logits)
                path.with_suffix(".part").replace(path)
                print(path.stem, {k: round(v, 4) for k, v in summarize(path).items()}, flush=True)


def _images(fold: Fold) -> dict[str, np.ndarray]:
    return {
        "inner": fold.inner.images,
        "inner_corrupted": fold.inner_corrupted,
        "held_out": fold.held_out.images,
        "held_out_corrupted": fold.held_out_corrupted,
    }


def summarize(path: Path) -> dict[str, float]:
    """AUROCs of a run's held-out films, plain and corrupted, and external; and how far the logit follows
    sharpness within a class (Spearman's correlation, mean size over both)."""
    run = np.load(path)
    labels = run["held_out_labels"]
    followed = [
        abs(spearmanr(run["held_out"][labels == y], run["sharpness"][labels == y]).statistic)
        for y in (0, 1)
    ]
    result = {
        "held out": roc_auc_score(labels, run["held_out"]),
        "corrupted": roc_auc_score(labels, run["held_out_corrupted"]),
        "sharpness": np.mean(followed),
    }
    if len(run["external_labels"]):
        result["external"] = roc_auc_score(run["external_labels"], run["external"])
    return {name: float(value) for name, value in result.items()}


def format_table(out: Path) -> str:
    """A markdown table: a lever a row. AUROCs are means over seeds of the folds' mean; in brackets the
    difference to the base recipe, paired by seed, and its standard deviation."""
    runs: dict[tuple[str, str], dict[str, list[dict[str, float]]]] = {}
    for path in sorted(out.glob("*--*--*.npz")):
        lever, fold, seed = path.stem.split("--")
        folds = "patients" if fold == PATIENTS_FOLD else "series"
        runs.setdefault((lever, folds), {}).setdefault(seed, []).append(summarize(path))
    columns = ("held out", "corrupted", "external", "sharpness")
    lines = ["| recipe | folds | seeds | " + " | ".join(columns) + " |", "|---" * 7 + "|"]
    for folds, count in (("series", len(SERIES_FOLDS)), ("patients", 1)):
        base = _average_folds(runs.get((BASE, folds), {}), count)
        for lever in LEVERS:
            if found := _average_folds(runs.get((lever, folds), {}), count):
                cells = []
                for column in columns:
                    cell = f"{np.mean([f.get(column, np.nan) for f in found.values()]):.4f}"
                    gains = [
                        f.get(column, np.nan) - base[s].get(column, np.nan)
                        for s, f in found.items()
                        if s in base
                    ]
                    if lever != BASE and len(gains) > 1:
                        cell += f" ({np.mean(gains):+.4f}, sd {np.std(gains, ddof=1):.4f})"
                    cells.append(cell)
                lines.append(f"| {lever} | {folds} | {len(found)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _average_folds(seeds: dict[str, list[dict[str, float]]], folds: int) -> dict[str, dict[str, float]]:
    """Each seed that has all its folds, with its scores averaged over them."""
    return {
        seed: {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        for seed, rows in seeds.items()
        if len(rows) == folds
    }


def format_thresholds(out: Path) -> str:
    """A markdown table: ways to fix the operating point on patients of the trained series, and what
    they give on the series held out, plain and corrupted, as mean over folds and seeds."""
    rows: dict[str, list[tuple[float, ...]]] = {}
    for path in sorted(out.glob(f"{BASE}--*+*--*.npz")):
        run = np.load(path)
        y, plain, corrupted = run["inner_labels"], run["inner"], run["inner_corrupted"]
        both = np.concatenate([plain, corrupted]), np.concatenate([y, y])
        cuts = {
            "logit 0": 0.0,
            "sensitivity 97 %, plain": np.percentile(plain[y == 1], 3),
            "sensitivity 97 %, plain and corrupted": np.percentile(both[0][both[1] == 1], 3),
            "Youden, plain": _youden(plain, y),
            "Youden, plain and corrupted": _youden(*both),
            "Platt at the patients' prevalence, plain": _platt(plain, y, y.mean()),
            "balanced Platt, plain": _platt(plain, y),
            "balanced Platt, plain and corrupted": _platt(*both),
        }
        for name, cut in cuts.items():
            for kind in ("held_out", "held_out_corrupted"):
                positive = run["held_out_labels"] == 1
                found = np.mean(run[kind][positive] >= cut), np.mean(run[kind][~positive] < cut)
                rows.setdefault(name, []).append((*found, np.mean(found)))
    lines = ["| operating point | sensitivity | specificity | their mean | worst |", "|---" * 5 + "|"]
    for name, found in rows.items():
        cells = [*np.mean(found, axis=0), np.min(found, axis=0)[2]]
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in cells) + " |")
    return "\n".join(lines)


def _youden(logits: np.ndarray, labels: np.ndarray) -> float:
    """The logit, halfway between two films, at which sensitivity + specificity is largest."""
    values = np.unique(logits)
    cuts = (values[1:] + values[:-1]) / 2
    gains = [np.mean(logits[labels == 1] >= c) + np.mean(logits[labels == 0] < c) for c in cuts]
    return float(cuts[int(np.argmax(gains))])


def _platt(logits: np.ndarray, labels: np.ndarray, prevalence: float = 0.5) -> float:
    """The logit of probability one half where ``prevalence`` of the films are positive."""
    temperature, offset = fit_calibration(logits, labels)
    return -(offset + np.log(prevalence / (1.0 - prevalence))) * temperature


def _resize(films: LabelledImages, size: int) -> tuple[LabelledImages, np.ndarray]:
    """The films at the network's size, and the same corrupted."""
    plain = np.stack([preprocess(image[..., 0], size) for image in films.images])
    return LabelledImages(plain, films.labels, films.paths), corrupt(films.images, size, YARDSTICK)


def _draw_each_class(labels: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Indices of at most ``HELD_OUT_FILMS`` members of each class."""
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(np.flatnonzero(members & (labels == y)))[:HELD_OUT_FILMS] for y in (0, 1)]
    return np.sort(np.concatenate(drawn))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ablate", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("command", choices=("run", "table", "thresholds"))
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--data", default=PROBE.data)
    parser.add_argument("--weights", default=PROBE.weights)
    parser.add_argument("--external", type=Path, help="labelled films of another hospital")
    parser.add_argument("--levers", nargs="+", choices=LEVERS, default=list(LEVERS))
    parser.add_argument(
        "--folds", nargs="+", choices=[*SERIES_FOLDS, PATIENTS_FOLD], default=list(SERIES_FOLDS)
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    if args.command == "run":
        config = dataclasses.replace(PROBE, data=args.data, weights=args.weights)
        try:
            study(args.out, config, args.levers, args.folds, args.external, args.steps)
        except ValueError as error:
            parser.exit(1, f"{error}\n")
    print(format_thresholds(args.out) if args.command == "thresholds" else format_table(args.out))


if __name__ == "__main__":
    main()
