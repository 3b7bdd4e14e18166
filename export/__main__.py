"""Convert, quantize and validate a trained run, and prune it if asked to, then write ``models/``.

Command::

    python -m export --run runs/b0
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from cxr.lungs import SHIPPED, LungFinder
from export.convert import to_tflite
from export.prune import measure_sparsity, prune
from export.quantize import (
    FLOAT_LAYERS,
    RANGE_PERCENTILES,
    alter_half,
    choose_calibration_films,
    quantize,
)
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
    write_models,
)
from training.config import TrainConfig
from training.flags import add_flags, setting, to_flat
from training.masks import load_masked
from training.model import load_run
from training.run_folder import COMMIT
from training.validation import load_validation
from training.views import view_films


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """An export. The defaults are those of the published export."""

    # zeros make the gzipped file smaller, not the model faster, and cost accuracy (models/README.md)
    sparsity: float = setting(0.0, "share of zeros in the 1x1 kernels")
    epochs: int = setting(1, "epochs of fine-tuning while pruning")
    learning_rate: float = setting(1e-4, "peak learning rate of the fine-tune")


def export(
    run: Path,
    config: ExportConfig,
    finder: LungFinder,
    data: str | None = None,
    external: Path | None = None,
) -> dict[str, Report]:
    """Make and measure the models of a run.

    Args:
        run: ``runs/<name>`` of ``training.train``; the pruned weights are saved there.
        config: pruning.
        finder: of the lungs.
        data: the data set, if it is no longer at the run's own path.
        external: labelled images of another hospital, which the card reports the metrics of.

    Returns:
        Reports of ``dense float32`` (before pruning, if there is any), ``float32`` and ``int8``.

    Raises:
        QuantizationError: if int8 falls too far below float32 on the validation patients.
        ShortcutError: if a model follows what lies around the lungs.
        FileNotFoundError: if the run is not complete.
    """
    trained, model = load_run(run)
    trained = dataclasses.replace(trained, data=data or trained.data)
    train, test = (
        load_masked(trained.data, trained.masks, split, trained.film_size) for split in ("train", "test")
    )
    films = Films(train, load_validation(trained), test, external)
    size = trained.image_size

    dense = float32 = to_tflite(model)
    if config.sparsity > 0:
        model = prune(model, trained, train, config.sparsity, config.epochs, config.learning_rate)
        float32 = to_tflite(model)
    model.save_weights(run / "pruned_weights.h5")
    calibration = view_films(alter_half(choose_calibration_films(train)), size)[..., :1]
    int8 = quantize(float32, calibration)

    digests = {
        "train": digest(train),
        "validation": digest(films.validation.films),
        "test": digest(test),
    }
    origin = _describe_training(trained, run) | {"data_sha256": digests}
    origin |= {"external": external.name} if external else {}
    pruned = origin | {
        "pruning": dataclasses.asdict(config) | {"measured_sparsity": measure_sparsity(model)}
    }
    quantized = pruned | {
        "quantization": {
            "scheme": "static int8, weights per channel, activations per tensor",
            "calibration_films": len(calibration),
            "range_percentiles": list(RANGE_PERCENTILES),
            "float_layers": list(FLOAT_LAYERS),
        }
    }
    reports = {}
    if config.sparsity > 0:
        reports["dense float32"] = measure_model(
            dense, "float32", size, origin, finder, films, in_full=False
        )
    reports["float32"] = measure_model(float32, "float32", size, pruned, finder, films)
    reports["int8"] = measure_model(int8, "int8", size, quantized, finder, films)
    check_loss(reports["float32"].validation_auroc, reports["int8"].validation_auroc)
    for name in ("float32", "int8"):
        check_lungs(reports[name])
    return gate_cause(reports)


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
    add_flags(parser, ExportConfig)
    options = vars(parser.parse_args())
    run, out, data, external, lungs = (
        options.pop(name) for name in ("run", "out", "data", "external", "lungs")
    )
    try:
        finder = LungFinder.load(lungs)
        reports = export(run, ExportConfig(**options), finder, data, external)
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
