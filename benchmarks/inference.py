"""Measure the same network on this project's runtime and on others, one film at a time.

Command, after ``python -m benchmarks.peers``::

    python -m benchmarks.inference --peers runs/peers/160 --threads 1

The runtimes take turns, so that drift of the machine affects all. Each has ten films in a row that are
not timed, so that its data are in the caches and all cores are awake, and then ten that are. LiteRT gets
uint8 pixels, the others get float pixels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter

from benchmarks.roofline import count_macs, peak_macs_per_second
from benchmarks.table import print_rows
from cxr.classifier import INPUT
from cxr.model_file import SIGNATURE

OURS = "LiteRT int8 (this project)"
PAUSE_S = 0.02  # before a turn, so that the threads of the previous runtime are idle
WARM = 10  # calls at the start of a turn that are not timed: after a pause, a second core can be late
BURST = 10

Call = Callable[[], object]


def load_litert(folder: Path, film: np.ndarray, threads: int) -> dict[str, Call]:
    """The two formats of this project, and float16, on uint8 (1, S, S, 1)."""
    calls: dict[str, Call] = {}
    files = {OURS: "int8", "LiteRT float32 (this project)": "float32", "LiteRT float16": "float16"}
    for name, kind in files.items():
        interpreter = Interpreter(str(folder / f"litert_{kind}.tflite"), num_threads=threads)
        runner = interpreter.get_signature_runner(SIGNATURE)
        calls[name] = lambda runner=runner: runner(**{INPUT: film})
    return calls


def load_tensorflow(folder: Path, film: np.ndarray, threads: int) -> dict[str, Call]:
    """``predict`` of Keras, and the same network as a compiled function, on float32 (1, S, S, 1)."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    saved = tf.saved_model.load(str(folder / "saved_model"))
    serve, image = saved.signatures["serving_default"], tf.constant(film)
    keras = tf_keras.models.load_model(folder / "keras.h5", compile=False)
    return {
        "TensorFlow float32, compiled function": lambda: serve(image=image)["evidence"].numpy(),  # noqa: PLW0108
        "Keras predict": lambda: keras.predict(film, verbose=0),
    }


def load_onnx(folder: Path, film: np.ndarray, threads: int) -> dict[str, Call]:
    """ONNX Runtime on float32 (1, S, S, 1). After a run its threads do not spin and slow the others."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    calls: dict[str, Call] = {}
    for kind in ("float32", "int8"):
        session = onnxruntime.InferenceSession(
            folder / f"onnx_{kind}.onnx", options, providers=["CPUExecutionProvider"]
        )
        calls[f"ONNX Runtime {kind}"] = lambda session=session: session.run(None, {INPUT: film})
    return calls


def load_openvino(folder: Path, film: np.ndarray, threads: int) -> dict[str, Call]:
    """OpenVINO on float32 (1, S, S, 1).

    By default it computes float networks in bfloat16 if the processor has AMX; this has its own row.
    """
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    variants = {
        "OpenVINO float32": ("float32", {"INFERENCE_PRECISION_HINT": "f32"}),
        "OpenVINO float32, its default precision": ("float32", {}),
        "OpenVINO int8 (NNCF)": ("int8", {}),
    }
    calls: dict[str, Call] = {}
    for name, (kind, extra) in variants.items():
        compiled = openvino.Core().compile_model(folder / f"openvino_{kind}.xml", "CPU", settings | extra)
        request = compiled.create_infer_request()
        calls[name] = lambda request=request: request.infer([film])
    return calls


def measure(calls: dict[str, Call], rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds of each call, float64 (rounds * BURST,). The calls take turns, and each turn begins
    with some that are not timed."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(PAUSE_S)
            for _ in range(WARM):
                call()
            for _ in range(BURST):
                start = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: np.array(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference", description="Inference beside its peers."
    )
    parser.add_argument(
        "--peers", type=Path, required=True, help="a folder of benchmarks.peers: OUT/SIZE"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    size = int(args.peers.name)
    film = np.random.default_rng(0).integers(0, 256, (1, size, size, 1), np.uint8)
    floats = film.astype(np.float32)
    calls = load_litert(args.peers, film, args.threads)
    for load in (load_tensorflow, load_onnx, load_openvino):
        calls |= load(args.peers, floats, args.threads)
    macs = count_macs(args.peers / "litert_float32.tflite")
    limits = {
        f"limit of {name}": np.array([macs / rate / args.threads * 1e3])
        for name, rate in peak_macs_per_second().items()
    }
    title = f"inference, {size} px, {args.threads} thread(s)"
    print_rows(title, measure(calls, args.rounds) | limits, OURS, "ms")


if __name__ == "__main__":
    main()
