"""Ablations on held-out series: what each change of the training recipe gains or loses.

The AUROC on random validation patients is close to 1 and does not show the shift between the training and
the test images of this data set. A held-out series does: the network is trained without one series of
normal images and one cause of pneumonia, and is measured on them. Each lever is one change to a base
recipe, with small images, few steps and several seeds. The logits of each run are saved, so a stopped
study continues where it was, and the tables need no training::

    python -m experiments.ablate run --data data/chest_xray --weights FILE.h5 --external data/nih_adults
    python -m experiments.ablate table
    python -m experiments.ablate thresholds

The official test split is not read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import tf_keras
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from cxr import LungFinder, read_image
from experiments.boxes import BOXES, ORIGINAL_SIZES, UNSQUEEZED, read_sizes, unsqueeze_fold
from experiments.folds import PATIENTS_FOLD, SERIES_FOLDS, Fold, make_folds
from experiments.options import new_parser
from training.averaging import WeightAverage, write_weights
from training.batches import training_batches
from training.calibration import fit_calibration
from training.config import TrainConfig
from training.flags import from_flat, to_flat
from training.masks import find_layers
from training.model import build_from, set_trainable
from training.names import list_labelled
from training.optimization import compile_model
from training.run_folder import check_run, write_config
from training.validation import predict_logits

STEPS = 100
SEEDS = 3
# the published recipe at a smaller size
PROBE = TrainConfig(name="ablation", image_size=96, average_steps=40)
BASE = "base"
LEVERS: dict[str, dict[str, float]] = {
    BASE: {},
    "no style changes": {"style": 0.0, "band_gains": 0.0, "convolution_share": 0.0},
    "no gains of bands": {"band_gains": 0.0},
    "full gains of bands": {"band_gains": 1.0},
    "covered borders": {"border_share": 0.5},
    "no resampling, no JPEG": {"copy_share": 0.0},
    "no swapped frames": {"swapped_share": 0.0},
    "no changed surroundings": {"background_share": 0.0},
    "no erased lungs": {"erased_share": 0.0},
    "MixUp 0.2": {"mixup": 0.2},
    "crops from a tenth": {"crop_area": 0.1},
    "no evened weights": {"evenness": 0.0},
    "no averaging": {"average_steps": 1},
    "no label smoothing": {"label_smoothing": 0.0},
    "no whole frames": {"whole_frame_share": 0.0},
    "no cause head": {"cause_weight": 0.0},
    "dropout 0.5": {"dropout": 0.5},
    "weight decay 1e-3": {"weight_decay": 1e-3},
    "norms trained": {"freeze_norms": False},
    "128 px": {"image_size": 128},
    **{box: {} for box in BOXES},
}


def run_probe(fold: Fold, config: TrainConfig, steps: int) -> tf_keras.Model:
    """Fine-tune a new network on the fold for ``steps``. It has the averaged weights at the end."""
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
    """Train the runs that are missing in ``out``, and save each as ``<lever>--<fold>--<seed>.npz``.

    Args:
        out: folder of the logits.
        config: the base recipe, with the data set and the initial weights.
        levers: keys of ``LEVERS``.
        folds: names of folds.
        external: a labelled folder of another hospital, which is measured as well.
        steps: training steps of each run.

    Raises:
        ValueError: if ``out`` holds runs of another recipe or of other levers of the same names, or the
            data cannot be used.
    """
    sizes = read_sizes(config.data, config.masks) if UNSQUEEZED in levers else None
    settings = to_flat(config) | {"steps": steps, "external": external is not None}
    check_run(out, settings, resume=True)
    write_config(out, settings)
    other_labels = np.zeros(0)
    if external:
        listed = list_labelled(external, "val")
        finder = LungFinder.load()
        others = np.stack([find_layers(finder, read_image(p), config.film_size) for p, _, _ in listed])
        other_labels = np.array([label for _, label, _ in listed])
    made = [fold for fold in make_folds(config.data, config) if fold.name in folds]
    for lever in levers:
        films = made
        if lever == UNSQUEEZED:
            films = [unsqueeze_fold(fold, sizes) for fold in made]
        for seed in range(SEEDS):
            for fold in films:
                path = out / f"{lever}--{fold.name}--{seed}.npz"
                changes = json.dumps(LEVERS[lever], sort_keys=True)
                if path.exists():
                    if str(np.load(path)["changes"]) != changes:
                        raise ValueError(
                            f"received {path}, whose lever had other settings; accepted is another folder"
                        )
                    continue
                changed = from_flat(TrainConfig, to_flat(config) | LEVERS[lever] | {"seed": seed})
                images = _images(fold) | ({"external": others} if external else {})
                with BOXES.get(lever, contextlib.nullcontext)():
                    model = run_probe(fold, changed, steps)
                    logits = {name: predict_logits(model, x)[:, 0] for name, x in images.items()}
                arrays = {
                    "changes": np.array(changes),
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
    """AUROCs of a run on held-out images, without and with corruption, and on external images, and how
    far the logit follows sharpness (Spearman's correlation within a class, mean size over both)."""
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
    """A markdown table with one row for each lever. AUROCs are means over folds and seeds. In brackets is
    the difference to the base recipe, paired by seed, with its standard deviation."""
    runs: dict[tuple[str, str], dict[str, list[dict[str, float]]]] = {}
    for path in sorted(out.glob("*--*--*.npz")):
        lever, fold, seed = path.stem.split("--")
        folds = "patients" if fold == PATIENTS_FOLD else "series"
        runs.setdefault((lever, folds), {}).setdefault(seed, []).append(summarize(path))
    columns = ("held out", "corrupted", "external", "sharpness")
    rows = []
    for folds, count in (("series", len(SERIES_FOLDS)), ("patients", 1)):
        base = _average_folds(runs.get((BASE, folds), {}), count)
        for lever in LEVERS:
            if found := _average_folds(runs.get((lever, folds), {}), count):
                row = {"recipe": lever, "folds": folds, "seeds": len(found)}
                for column in columns:
                    cell = f"{np.mean([f.get(column, np.nan) for f in found.values()]):.4f}"
                    gains = [
                        f.get(column, np.nan) - base[s].get(column, np.nan)
                        for s, f in found.items()
                        if s in base
                    ]
                    if lever != BASE and len(gains) > 1:
                        cell += f" ({np.mean(gains):+.4f}, sd {np.std(gains, ddof=1):.4f})"
                    row[column] = cell
                rows.append(row)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def _average_folds(seeds: dict[str, list[dict[str, float]]], folds: int) -> dict[str, dict[str, float]]:
    """The scores of each seed, averaged over its folds. Seeds with missing folds are left out."""
    return {
        seed: {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        for seed, rows in seeds.items()
        if len(rows) == folds
    }


def format_thresholds(out: Path) -> str:
    """A markdown table of ways to choose the operating point on patients of the trained series, with
    their results on the held-out series, without and with corruption, as means over folds and seeds."""
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
    columns = ("sensitivity", "specificity", "their mean", "worst")
    table = []
    for name, found in rows.items():
        values = [*np.mean(found, axis=0), np.min(found, axis=0)[2]]
        shown = {column: f"{value:.3f}" for column, value in zip(columns, values, strict=True)}
        table.append({"operating point": name, **shown})
    return pd.DataFrame(table).to_markdown(index=False, disable_numparse=True)


def _youden(logits: np.ndarray, labels: np.ndarray) -> float:
    """The logit, halfway between two images, at which sensitivity + specificity is largest."""
    values = np.unique(logits)
    cuts = (values[1:] + values[:-1]) / 2
    gains = [np.mean(logits[labels == 1] >= c) + np.mean(logits[labels == 0] < c) for c in cuts]
    return float(cuts[int(np.argmax(gains))])


def _platt(logits: np.ndarray, labels: np.ndarray, prevalence: float = 0.5) -> float:
    """The logit of probability one half if ``prevalence`` of the images are positive."""
    temperature, offset = fit_calibration(logits, labels)
    return -(offset + np.log(prevalence / (1.0 - prevalence))) * temperature


def main() -> None:
    parser = new_parser("experiments.ablate", __doc__)
    parser.add_argument(
        "command", choices=("run", "table", "thresholds"), help="train, or print a table of what is there"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder of the logits")
    parser.add_argument("--data", default=PROBE.data, help="the data set")
    parser.add_argument("--masks", default=PROBE.masks, help="the lung masks, as training.train")
    parser.add_argument("--weights", default=PROBE.weights, help="initial weights, as training.train")
    parser.add_argument("--external", type=Path, help="labelled images of another hospital")
    levers = [lever for lever in LEVERS if lever != UNSQUEEZED]
    folds = list(SERIES_FOLDS)
    parser.add_argument(
        "--levers",
        nargs="+",
        choices=LEVERS,
        default=levers,
        help=f"unless given, all but {UNSQUEEZED!r}, which needs {ORIGINAL_SIZES} in the masks' folder",
    )
    parser.add_argument(
        "--folds",
        nargs="+",
        choices=[*folds, PATIENTS_FOLD],
        default=folds,
        help="both folds of series unless given",
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of each run")
    args = parser.parse_args()
    if args.command == "run":
        config = dataclasses.replace(PROBE, data=args.data, masks=args.masks, weights=args.weights)
        try:
            study(args.out, config, args.levers, args.folds, args.external, args.steps)
        except ValueError as error:
            parser.exit(1, f"{error}\n")
    print(format_thresholds(args.out) if args.command == "thresholds" else format_table(args.out))


if __name__ == "__main__":
    main()
