"""Latency and agreement of other splits of the network between int8 and float.

Command, after ``python -m benchmarks.peers``::

    python -m experiments.levers --peers runs/peers/160 --data data/chest_xray

Each split is quantized with the ranges of the export, which then fits the heads again; here it does not.
Latencies are measured in turns. The signs of the logits are compared with those of float32 on the
validation patients.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from ai_edge_litert.interpreter import Interpreter

from benchmarks.inference import BURST, Call, measure
from cxr.classifier import INPUT
from cxr.model_file import SIGNATURE
from export.quantize import FLOAT_LAYERS, choose_calibration_films, quantize, vary
from training.config import TrainConfig
from training.masks import load_masked
from training.views import view_films

SHIPPED = "stem, block 1 and head float (shipped)"
HEAD, EARLY = FLOAT_LAYERS
SPLITS = {
    "head float": (HEAD,),
    "stem and head float": (HEAD, ".*/(rescaling|normalization|stem_).*"),
    SHIPPED: FLOAT_LAYERS,
    "shipped, and depthwise of block 2b float": (HEAD, EARLY, ".*/block2b_dwconv.*"),
    "shipped, and depthwise of blocks 2b to 4c float": (
        HEAD,
        EARLY,
        ".*/block(2b|3[ab]|4[abc])_dwconv.*",
    ),
}


def load(model: bytes, film: np.ndarray, num_threads: int) -> Call:
    """A function that scores the box of the lungs, uint8 (1, S, S, 1), ``film`` by default, and returns
    the mean evidence."""
    interpreter = Interpreter(model_content=model, num_threads=num_threads)
    runner = interpreter.get_signature_runner(SIGNATURE)
    return lambda film=film: float(runner(**{INPUT: film})["evidence"].mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.levers", description="Splits between int8 and float, compared."
    )
    parser.add_argument(
        "--peers", type=Path, required=True, help="a folder of benchmarks.peers: OUT/SIZE"
    )
    parser.add_argument("--data", required=True, help="the data set")
    parser.add_argument("--masks", default="", help="lung_masks beside the data set unless given")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of the latency measurement")
    args = parser.parse_args()
    size = int(args.peers.name)
    float32 = (args.peers / "litert_float32.tflite").read_bytes()
    film_size = TrainConfig().film_size
    train, validation = (
        load_masked(args.data, args.masks, split, film_size) for split in ("train", "val")
    )
    films = view_films(vary(choose_calibration_films(train)), size)[..., :1]
    models = {"float32": float32} | {n: quantize(float32, films, split) for n, split in SPLITS.items()}
    shown = films[:1]
    medians = []
    for threads in (1, 2):
        calls = {name: load(model, shown, threads) for name, model in models.items()}
        times = measure(calls, args.rounds)
        medians.append({name: float(np.median(values)) for name, values in times.items()})
    views = view_films(validation.images, size)[..., :1]
    calls = {name: load(model, shown, 2) for name, model in models.items()}
    logits = {name: np.array([call(film[np.newaxis]) for film in views]) for name, call in calls.items()}
    print(f"{args.rounds * BURST} runs each\n")
    rows = []
    for name, values in logits.items():
        one, two = (m[name] / m[SHIPPED] for m in medians)
        same = np.mean((values > 0) == (logits["float32"] > 0))
        rows.append(
            {
                "int8, but": name,
                "1 thread / shipped": f"{one:.2f}",
                "2 threads / shipped": f"{two:.2f}",
                "both / float32": ", ".join(f"{m[name] / m['float32']:.2f}" for m in medians),
                "same sign as float32": f"{same:.1%}",
            }
        )
    print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))


if __name__ == "__main__":
    main()
