"""Convert, quantize and validate the network that finds the lungs, then write it and its card.

Command::

    python -m export.lungs --run runs/lungs
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cxr.lungs import FILE, LungFinder, Lungs
from cxr.model_card import LungCard
from export.convert import lungs_to_tflite
from export.quantize import choose_calibration_films, percentile_range, quantize
from export.validate import DATA, MASKS, PACKAGES, QuantizationError, digest
from training.flags import to_flat
from training.lungs import box_overlap, dice, load_lung_run, prepare
from training.masks import load_masked
from training.metrics import mean_with_interval
from training.names import SPLITS
from training.novelty import fit_shape
from training.run_folder import COMMIT
from training.sources import LabelledImages

VERSION = "1.0.0"  # raise it with every export that changes the model
FLOAT_LAYERS = ("StatefulPartitionedCall.*", ".*/(rescaling).*")  # the outputs and the input
RANGE_PERCENTILES = (0.02, 99.98)
MAX_DICE_LOSS = 0.01
# The shape of lungs is learned from copies as well: with this share of the side cut off at each edge,
# and rotated by so many degrees in either direction.
CUT_OFF = 0.1
ROTATION = 15.0


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
    train, validation, test = (
        load_masked(data, config.masks, split, config.film_size) for split in SPLITS
    )
    float32 = lungs_to_tflite(model)
    films = prepare(choose_calibration_films(train), config.image_size)
    choose_range = functools.partial(percentile_range, percentiles=RANGE_PERCENTILES)
    int8 = quantize(float32, films, FLOAT_LAYERS, choose_range)
    card = LungCard(
        name="lungs_int8",
        version=VERSION,
        variant="int8",
        input_size=config.image_size,
        metrics={},
        shape=None,
        provenance={
            "data": DATA,
            "masks": MASKS,
            "training": {k: v for k, v in to_flat(config).items() if k not in ("name", "data", "masks")},
            "training_commit": (run / COMMIT).read_text() if (run / COMMIT).exists() else "unknown",
            "data_sha256": {
                "train": digest(train),
                "validation": digest(validation),
                "test": digest(test),
            },
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "quantization": {
                "scheme": "static int8, weights per channel, activations per tensor",
                "calibration_films": len(films),
                "range_percentiles": list(RANGE_PERCENTILES),
                "float_layers": list(FLOAT_LAYERS),
            },
        },
        sha256=hashlib.sha256(int8).hexdigest(),
        size_bytes=len(int8),
    )
    finder = LungFinder(int8, card, num_threads=1)
    metrics = {"validation": measure_finder(finder, validation)}
    reference = measure_finder(LungFinder(float32, card, num_threads=1), validation)
    reached, expected = (m["dice"]["value"] for m in (metrics["validation"], reference))
    if not reached >= expected - MAX_DICE_LOSS:
        raise QuantizationError(
            f"int8 reaches a validation Dice of {reached:.4f}, float32 {expected:.4f}; a loss of "
            f"{MAX_DICE_LOSS} is accepted. Nothing written."
        )
    metrics["test"] = measure_finder(finder, test)
    shape = fit_shape(*(find_in_copies(finder, films) for films in (train, validation)))
    return int8, dataclasses.replace(card, metrics=metrics, shape=shape)


def find_in_copies(finder: LungFinder, films: LabelledImages) -> list[Lungs]:
    """The lungs of N images, of their middles, and of copies rotated either way: a list of 4 N."""
    edge = round(CUT_OFF * films.images.shape[1])
    lungs = []
    for film in films.images[..., 0]:
        image = Image.fromarray(film)
        rotated = [image.rotate(d, Image.Resampling.BILINEAR) for d in (ROTATION, -ROTATION)]
        copies = (film, film[edge:-edge, edge:-edge], *map(np.asarray, rotated))
        lungs += [finder.find(copy) for copy in copies]
    return lungs


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
