"""Convert, quantize and validate the network that finds the lungs, then write it and its card.

Command::

    python -m export.lungs --run runs/lungs
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cxr.lungs import FILE, LungFinder
from cxr.model_card import LungCard
from export.convert import lungs_to_tflite
from export.quantize import RANGE_PERCENTILES, choose_calibration_films, quantize
from export.validate import DATA, PACKAGES, QuantizationError, digest
from training.flags import to_flat
from training.lungs import box_overlap, dice, load_lung_run, prepare
from training.masks import load_masked
from training.metrics import mean_with_interval
from training.run_folder import COMMIT
from training.sources import LabelledImages

MASKS = "V7 Labs, COVID-19 X-ray dataset: lungs drawn by people (CC BY 4.0)"
VERSION = "1.0.0"  # raise it with every export that changes the model
FLOAT_LAYERS = ("StatefulPartitionedCall.*", ".*/(rescaling).*")  # the outputs and the input
MAX_DICE_LOSS = 0.01


def export_lungs(run: Path, data: str | None = None) -> tuple[bytes, LungCard]:
    """Make and measure the int8 model of a run.

    Args:
        run: ``runs/NAME`` of ``training.lungs``.
        data: the data set, if it is no longer at the run's own path.

    Returns:
        The flatbuffer and its card.

    Raises:
        QuantizationError: if int8 falls too far below float32 on the validation patients.
        FileNotFoundError: if the run is not complete.
    """
    config, model = load_lung_run(run)
    data = data or config.data
    parts = {split: load_masked(data, config.masks, split, config.film_size) for split in SPLITS}
    train = parts.pop("train")
    float32 = lungs_to_tflite(model)
    films = prepare(choose_calibration_films(train), config.image_size)
    int8 = quantize(float32, films, FLOAT_LAYERS)
    provenance = {
        "data": DATA,
        "masks": MASKS,
        "training": {k: v for k, v in to_flat(config).items() if k not in ("name", "data", "masks")},
        "training_commit": (run / COMMIT).read_text() if (run / COMMIT).exists() else "unknown",
        "data_sha256": {"train": digest(train)} | {SPLITS[s]: digest(f) for s, f in parts.items()},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "quantization": {
            "scheme": "static int8, weights per channel, activations per tensor",
            "calibration_films": len(films),
            "range_percentiles": list(RANGE_PERCENTILES),
            "float_layers": list(FLOAT_LAYERS),
        },
    }
    cards = {
        variant: _describe(flatbuffer, variant, config.image_size, provenance, parts)
        for variant, flatbuffer in (("float32", float32), ("int8", int8))
    }
    scores = {name: card.metrics["validation"]["dice"]["value"] for name, card in cards.items()}
    if not scores["int8"] >= scores["float32"] - MAX_DICE_LOSS:
        raise QuantizationError(
            f"int8 reaches a validation Dice of {scores['int8']:.4f}, float32 {scores['float32']:.4f}; a "
            f"loss of {MAX_DICE_LOSS} is accepted. Nothing written."
        )
    return int8, cards["int8"]


SPLITS = {"train": "train", "val": "validation", "test": "test"}


def _describe(
    model: bytes, variant: str, size: int, provenance: dict[str, Any], parts: dict[str, LabelledImages]
) -> LungCard:
    """The card of a flatbuffer, measured through the runtime on validation and test."""
    card = LungCard(
        name=f"lungs_{variant}",
        version=VERSION,
        variant=variant,
        input_size=size,
        metrics={},
        provenance=provenance,
        sha256=hashlib.sha256(model).hexdigest(),
        size_bytes=len(model),
    )
    finder = LungFinder(model, card, num_threads=1)
    return dataclasses.replace(
        card, metrics={SPLITS[name]: measure_finder(finder, films) for name, films in parts.items()}
    )


def measure_finder(finder: LungFinder, films: LabelledImages) -> dict[str, Any]:
    """Dice and box overlap with intervals on images and masks uint8 (N, F, F, 2)."""
    found = np.stack([finder.find(film[..., 0]).mask for film in films.images])
    drawn = films.images[..., 1:]
    return {
        "films": len(films.paths),
        "dice": mean_with_interval(dice(found, drawn), films.patients),
        "box_overlap": mean_with_interval(box_overlap(found, drawn[..., 0]), films.patients),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m export.lungs", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--run", type=Path, required=True, help="runs/NAME of training.lungs")
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder for model and card")
    parser.add_argument("--data", help="the data set, if it has moved since training")
    args = parser.parse_args()
    try:
        model, card = export_lungs(args.run, args.data)
    except (QuantizationError, ValueError, FileNotFoundError) as error:
        print(f"export.lungs: {error}", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / FILE).write_bytes(model)
    card.save((args.out / FILE).with_suffix(".json"))
    print(json.dumps({"size_bytes": card.size_bytes} | card.metrics, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
