"""Compare backbones under one protocol: the same images, batches, augmentation, epochs and measurements.

Command (the table of models/README.md)::

    python -m experiments.backbones --data data/chest_xray

The backbones are compared on the validation patients; ``--split test`` is for the last report, when all
choices have been made. They start from random weights, or from Keras' ImageNet weights with ``--weights
imagenet``, which are downloaded. Each backbone is a run of ``training.train`` in
``runs/<name>/<backbone>``. A run that already exists is only measured.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
import tf_keras

from experiments.options import new_parser
from training.calibration import Calibration
from training.config import TrainConfig
from training.flags import to_flat
from training.masks import load_masked
from training.metrics import Intervals
from training.model import BACKBONES, load_run
from training.names import SPLITS
from training.run_folder import check_run
from training.train import train
from training.validation import load_validation, predict_logits
from training.views import view_films

PROTOCOL = TrainConfig(
    name="compare",
    weights="none",
    padding="keras",
    image_size=96,
    film_size=128,
    head_epochs=0,
    epochs=2,
    freeze_norms=False,
    average_steps=1,  # no average, because the weights still change a lot in such a short run
)
REPEATS, WARMUP = 50, 10


def compare(
    config: TrainConfig, backbones: list[str], runs: Path = Path("runs"), split: str = "val"
) -> str:
    """Train and measure each backbone. Returns a markdown table.

    Args:
        config: the protocol; its backbone is replaced.
        backbones: keys of ``BACKBONES``.
        runs: folder of runs.
        split: what the metrics are measured on; calibration always uses the validation patients.

    Raises:
        ValueError: if the data cannot be used, or a run was started with another protocol.
    """
    validation = load_validation(config)
    measured = load_masked(config.data, config.masks, split, config.film_size)
    rows, models = [], []
    for backbone in backbones:
        chosen = dataclasses.replace(config, name=f"{config.name}/{backbone}", backbone=backbone)
        run = runs / chosen.name
        check_run(run, to_flat(chosen), resume=True)
        if not (run / "metrics.json").exists():
            train(chosen, runs, resume=True)
        _, model = load_run(run)
        plain, corrupted, logits = (
            predict_logits(model, images)[:, 0]
            for images in (validation.films.images, validation.corrupted, measured.images)
        )
        calibration = Calibration.fit(plain, corrupted, validation.films.labels)
        metrics = calibration.measure(measured.labels, logits, measured.patients)
        models.append(model)
        rows.append(
            {
                "backbone": backbone,
                "parameters": f"{model.count_params() / 1e6:.2f} M",
                "float32 weights": f"{model.count_params() * 4 / 1e6:.1f} MB",
                "epochs": config.epochs,
                f"{split} AUROC": _format_interval(metrics, "auroc"),
                f"{split} accuracy": _format_interval(metrics, "accuracy"),
            }
        )
        print(rows[-1], flush=True)
    times = _median_latencies_ms(models, view_films(measured.images[:1], config.image_size)[0])
    for row, time_ms in zip(rows, times, strict=True):
        row["latency / first"] = f"{time_ms / times[0]:.2f}"
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def _median_latencies_ms(models: list[tf_keras.Model], image: np.ndarray) -> list[float]:
    """Latency of each compiled and warm network on one view uint8 (S, S, 2), measured in turns."""
    infer = [tf.function(model) for model in models]
    film = tf.constant(image[np.newaxis], tf.float32)
    times = np.zeros((WARMUP + REPEATS, len(models)))
    for turn in range(len(times)):
        for i, function in enumerate(infer):
            start = time.perf_counter()
            function(film, training=False).numpy()
            times[turn, i] = (time.perf_counter() - start) * 1e3
    return np.median(times[WARMUP:], axis=0).tolist()


def _format_interval(metrics: Intervals, name: str) -> str:
    m = metrics[name]
    return f"{m['value']:.3f} ({m['low']:.3f}..{m['high']:.3f})"


def main() -> None:
    parser = new_parser("experiments.backbones", __doc__)
    parser.add_argument("--data", default=PROTOCOL.data, help="the data set")
    parser.add_argument("--masks", default=PROTOCOL.masks, help="the lung masks, as training.train")
    parser.add_argument(
        "--weights", choices=("none", "imagenet"), default=PROTOCOL.weights, help="initial weights"
    )
    parser.add_argument("--image-size", type=int, default=PROTOCOL.image_size, help="input side, px")
    parser.add_argument("--epochs", type=int, default=PROTOCOL.epochs, help="epochs of each backbone")
    parser.add_argument("--name", default=PROTOCOL.name, help="the output goes to runs/NAME/BACKBONE")
    parser.add_argument(
        "--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES), help="all unless given"
    )
    parser.add_argument("--split", choices=SPLITS, default="val", help="val unless given")
    args = parser.parse_args()
    changes = {name: value for name, value in vars(args).items() if name not in ("backbones", "split")}
    changes["freeze_norms"] = args.weights == "imagenet"
    if args.weights == "imagenet" and "small_cnn" in args.backbones:
        args.backbones.remove("small_cnn")
        print("small_cnn has no ImageNet weights and is left out")
    try:
        print(compare(dataclasses.replace(PROTOCOL, **changes), args.backbones, split=args.split))
    except ValueError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
