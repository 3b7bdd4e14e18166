"""Prune, convert, quantize and validate a trained run, then write ``models/``.

Command::

    python -m export --run runs/e0
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tf_keras

from cxr.lungs import SHIPPED, LungFinder
from export.convert import to_tflite
from export.heads import HEAD_FILMS, refit_heads
from export.prune import measure_sparsity, prune
from export.quantize import (
    CALIBRATION_FILMS,
    FLOAT_LAYERS,
    RANGE_PERCENTILES,
    choose_calibration_films,
    quantize,
    vary,
)
from export.shrink import ROUNDS, ShrinkConfig, fine_tune, rounds_folder, shrink
from export.structure import EXPORTED, count_channels, save_network
from export.validate import (
    DATA,
    MASKS,
    PACKAGES,
    Films,
    QuantizationError,
    Report,
    ShortcutError,
    check_loss,
    check_lungs,
    copy_finder,
    digest,
    format_table,
    gate_cause,
    measure_model,
    split_page,
    write_models,
)
from training.config import TrainConfig
from training.flags import add_flags, from_flat, setting, to_flat
from training.masks import load_masked
from training.model import load_config, load_run
from training.names import LABELS, list_labelled
from training.run_folder import COMMIT
from training.sources import LabelledImages
from training.validation import load_validation
from training.views import view_films


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """An export. The defaults are those of the published export."""

    # zeros make the gzipped file smaller, not the model faster, and cost accuracy (models/README.md)
    sparsity: float = setting(0.0, "share of zeros in the 1x1 kernels")
    epochs: int = setting(1, "epochs of fine-tuning while zeros are made")
    learning_rate: float = setting(1e-4, "peak learning rate of that")
    keep: float = setting(
        0.4, f"share of the channels' time that is kept: 1, or one of {', '.join(map(str, ROUNDS))}"
    )
    last_epochs: int = setting(16, "epochs of fine-tuning after the last round of removing channels")
    last_learning_rate: float = setting(5e-4, "peak learning rate of that")
    last_feature_weight: float = setting(1.0, "weight of the whole network's features in that")
    shrink: ShrinkConfig = dataclasses.field(default=ShrinkConfig())


def export(
    run: Path,
    config: ExportConfig,
    finder: LungFinder,
    data: str | None = None,
    external: Path | None = None,
    teachers: Sequence[Path] = (),
) -> dict[str, Report]:
    """Make and measure the models of a run.

    Args:
        run: ``runs/<name>`` of ``training.train``; the network that is exported is saved there.
        config: pruning.
        finder: of the lungs.
        data: the data set, if it is no longer at the run's own path.
        external: labelled images of another hospital, which the card reports the metrics of.
        teachers: runs that a network with fewer channels learns from at the end, beside the run itself.

    Returns:
        Reports of ``dense float32`` (before pruning, if there is any), ``float32`` and ``int8``.

    Raises:
        QuantizationError: if int8 falls too far below float32 on the validation patients.
        ShortcutError: if a model follows what lies around the lungs.
        FileNotFoundError: if a run is not complete.
        ValueError: if the channels cannot be removed, or ``external`` lacks images of a class.
    """
    if config.keep not in (1.0, *ROUNDS):
        raise ValueError(f"received keep {config.keep}; accepted are 1 and {', '.join(map(str, ROUNDS))}")
    if external and len({label for _, label, _ in list_labelled(external, "test")}) < len(LABELS):
        raise ValueError(
            f"received {external}; accepted is a folder with images of {' and '.join(LABELS)}"
        )
    networks = [load_run(path)[1] for path in teachers]  # what cannot be used fails before an hour's work
    trained, model = load_run(run)
    trained = dataclasses.replace(trained, data=data or trained.data)
    train, test = (
        load_masked(trained.data, trained.masks, split, trained.film_size) for split in ("train", "test")
    )
    films = Films(train, load_validation(trained), test, external)
    size = trained.image_size

    dense = float32 = to_tflite(model)
    is_pruned = config.keep < 1.0 or config.sparsity > 0
    if config.keep < 1.0:
        model = _remove_channels(model, trained, train, config, run, networks)
    if config.sparsity > 0:
        model = prune(model, trained, train, config.sparsity, config.epochs, config.learning_rate)
    if is_pruned:
        float32 = to_tflite(model)
    calibration, more = (
        view_films(vary(choose_calibration_films(train, count)), size)[..., :1]
        for count in (CALIBRATION_FILMS, HEAD_FILMS)
    )
    int8 = refit_heads(float32, quantize(float32, calibration), more)

    digests = {
        "train": digest(train),
        "validation": digest(films.validation.films),
        "test": digest(test),
    }
    origin = _describe_training(trained, run) | {"data_sha256": digests}
    origin |= {"external": external.name} if external else {}
    pruned = origin | {
        "pruning": to_flat(config)
        | {
            "measured_sparsity": measure_sparsity(model),
            "channels": count_channels(model),
            "teachers": [_describe_training(load_config(path), path) for path in teachers],
        }
    }
    quantized = pruned | {
        "quantization": {
            "scheme": "static int8, weights per channel, activations per tensor",
            "calibration_films": len(calibration),
            "range_percentiles": list(RANGE_PERCENTILES),
            "heads_fitted_on": len(more),
            "float_layers": list(FLOAT_LAYERS),
        }
    }
    reports = {}
    if is_pruned:
        reports["dense float32"] = measure_model(
            dense, "float32", size, origin, finder, films, in_full=False
        )
    reports["float32"] = measure_model(float32, "float32", size, pruned, finder, films)
    reports["int8"] = measure_model(int8, "int8", size, quantized, finder, films)
    check_loss(reports["float32"].validation_auroc, reports["int8"].validation_auroc)
    for name in ("float32", "int8"):
        check_lungs(reports[name])
    save_network(model, run / EXPORTED)
    return gate_cause(reports)


def _remove_channels(
    model: tf_keras.Model,
    trained: TrainConfig,
    train: LabelledImages,
    config: ExportConfig,
    run: Path,
    teachers: Sequence[tf_keras.Model],
) -> tf_keras.Model:
    """The network of the round that leaves ``config.keep``, fine-tuned for longer by all teachers."""
    rounds = shrink(model, trained, train, config.shrink, [model], rounds_folder(run, config.shrink))
    smaller = next(network for share, network in rounds if share == config.keep)
    return fine_tune(
        smaller,
        trained,
        train,
        [model, *teachers],
        config.last_epochs,
        config.last_learning_rate,
        len(ROUNDS),
        config.last_feature_weight,
    )


def _describe_training(config: TrainConfig, run: Path) -> dict[str, Any]:
    """Provenance of the dense model, without paths of the machine."""
    training = to_flat(config)
    commit = run / COMMIT
    for name in ("name", "data", "masks", "weights"):
        del training[name]
    return {
        "date": datetime.date.today().isoformat(),
        "data": DATA,
        "masks": MASKS,
        "initial_weights": "none" if config.weights == "none" else Path(config.weights).name,
        "training": training,
        "training_commit": commit.read_text() if commit.exists() else "unknown",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="runs/NAME of training.train")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("models"),
        help="folder for the models, their cards and README.md",
    )
    parser.add_argument("--data", help="the data set, if it has moved since training")
    parser.add_argument("--external", type=Path, help="labelled images of another hospital")
    parser.add_argument("--lungs", type=Path, default=SHIPPED, help="the model that finds the lungs")
    parser.add_argument(
        "--teachers",
        type=Path,
        nargs="+",
        default=[],
        help="more runs that a network with fewer channels learns from",
    )
    add_flags(parser, ExportConfig)
    options = vars(parser.parse_args())
    run, out, data, external, lungs, teachers = (
        options.pop(name) for name in ("run", "out", "data", "external", "lungs", "teachers")
    )
    try:
        finder = LungFinder.load(lungs)
        split_page(out)  # fails now if the table has no place in it
        reports = export(run, from_flat(ExportConfig, options), finder, data, external, teachers)
        table = format_table(reports, finder)
        write_models(out, reports, table)
        copy_finder(lungs, out)
    except (QuantizationError, ShortcutError, ValueError, FileNotFoundError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
