"""Measure the input pipeline and the training step, alone and together, and steps on virtual devices.

Command, with ``training/requirements.txt``::

    python -m benchmarks.training_speed --data data/chest_xray

All figures are milliseconds per film. A pipeline that is faster than the step never delays it, since it
prepares batches while the step runs. On a CPU both use the same cores, so their times add up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

from benchmarks.server import ROOT
from benchmarks.table import print_rows
from training.batches import training_batches
from training.config import TrainConfig
from training.dataset import write_shards
from training.masks import load_masked
from training.model import build_from, set_trainable
from training.optimization import compile_model
from training.sources import load_split

PIPELINE, STEP, BOTH = "input pipeline alone", "training step alone", "both, as in training"
DEVICES = (1, 2)


def time_loading(data: str, size: int) -> float:
    """Milliseconds per film from a source to the cache of decoded films."""
    start = time.perf_counter()
    films = sum(1 for _ in load_split(data, "train", size))
    return (time.perf_counter() - start) / films * 1e3


def time_batches(batches: tf.data.Dataset, steps: int, batch_size: int) -> np.ndarray:
    """Milliseconds per film for each batch after the first, float64 (steps,)."""
    times, iterator = [], iter(batches)
    next(iterator)
    for _ in range(steps):
        start = time.perf_counter()
        next(iterator)
        times.append((time.perf_counter() - start) / batch_size * 1e3)
    return np.array(times)


def time_steps(config: TrainConfig, batches: tf.data.Dataset, steps: int, devices: int = 1) -> np.ndarray:
    """Milliseconds per film for each training step after the first, float64 (steps,).

    The devices share each batch.
    """
    names = [f"CPU:{i}" for i in range(devices)]
    strategy = tf.distribute.MirroredStrategy(names) if devices > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        model = build_from(config)
        set_trainable(model, backbone=True, freeze_norms=config.freeze_norms)
        compile_model(model, config, config.learning_rate, steps)
    step = model.make_train_function()
    iterator, times = iter(strategy.experimental_distribute_dataset(batches)), []
    for _ in range(1 + steps):
        start = time.perf_counter()
        float(step(iterator)["loss"])
        times.append((time.perf_counter() - start) / config.batch_size * 1e3)
    return np.array(times[1:])


def constant(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Repeat the first batch forever."""
    return batches.take(1).cache().repeat()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_speed", description="Input pipeline against training step."
    )
    parser.add_argument("--data", required=True, help="the data set as images")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--devices", type=int, help="time the step on so many, and print it as JSON")
    args = parser.parse_args()
    config = TrainConfig(data=args.data)
    size = config.batch_size
    if args.devices:
        logical = [tf.config.LogicalDeviceConfiguration()] * args.devices
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], logical)
        shape = (size, config.image_size, config.image_size, 2)
        blank = tf.data.Dataset.from_tensors((tf.zeros(shape), tf.zeros((size, 2)))).repeat()
        print(json.dumps(time_steps(config, blank, args.steps, args.devices).tolist()))
        return

    with tempfile.TemporaryDirectory() as shards:
        write_shards(args.data, shards)
        sources = {"folder of images": args.data, "TFRecord shards": shards}
        loading = {
            name: np.array([time_loading(data, config.film_size)]) for name, data in sources.items()
        }
    print_rows("reading and decoding a film, once a run", loading, "folder of images", "ms")
    films = load_masked(args.data, config.masks, "train", config.film_size).to_dataset()
    batches = training_batches(films, config, epoch=0)
    times = {
        PIPELINE: time_batches(batches, args.steps, size),
        STEP: time_steps(config, constant(batches), args.steps),
        BOTH: time_steps(config, batches, args.steps),
    }
    print_rows(f"a film of a training batch of {size}", times, STEP, "ms")
    epoch = {"steps alone": times[STEP], "steps and pipeline": times[BOTH]}
    count = int(films.cardinality())
    minutes = {n: np.array([np.median(t) * count / 6e4]) for n, t in epoch.items()}
    print_rows(f"an epoch of {count} films, by that", minutes, "steps alone", "min")
    command = [sys.executable, "-m", "benchmarks.training_speed", "--data", args.data]
    command += ["--steps", str(args.steps), "--devices"]
    scaling = {}
    for devices in DEVICES:
        result = subprocess.run(
            [*command, str(devices)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        scaling[f"{devices} device(s)"] = np.array(json.loads(result.stdout.splitlines()[-1]))
    print_rows("training step over virtual devices", scaling, "1 device(s)", "ms")


if __name__ == "__main__":
    main()
