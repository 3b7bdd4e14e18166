"""Measure the time of each operator of an inference with LiteRT's own profiler.

Command::

    python -m benchmarks.operators models/pneumonia_int8.tflite --threads 1 2

LiteRT's Python interface has no profiler, so this module calls the C interface of the pinned
ai-edge-litert (litert/c/*.h). Operators that XNNPACK runs are named ``Delegate/...``; all others run
outside of it. XNNPACK calls its tables for functions such as swish ``Invalid Unary Op``.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path

import ai_edge_litert
import pandas as pd

RUNS, WARMUP = 200, 20
CPU = 1  # kLiteRtHwAcceleratorCpu
NAMES = {"Invalid Unary Op": "Unary by table (swish, sigmoid)", "Convert (NC)": "Quantize, dequantize"}
LINE = re.compile(r"\s*(\S.*?)\s{2,}[\d.]+\s+[\d.]+\s+([\d.]+)\s+[\d.]+%")

_Handle = ctypes.c_void_p
_ZERO = ctypes.c_size_t(0)


class _TensorType(ctypes.Structure):
    """LiteRtRankedTensorType: element type, rank and flags, dimensions, strides."""

    _fields_ = (
        ("element", ctypes.c_int32),
        ("rank", ctypes.c_uint32),
        ("dimensions", ctypes.c_int32 * 8),
        ("strides", ctypes.c_uint32 * 8),
    )


class Profiler:
    """A model that is loaded with LiteRT's profiler.

    Args:
        model: a .tflite file.
        num_threads: threads of XNNPACK.
    """

    def __init__(self, model: Path, num_threads: int) -> None:
        self._lib = ctypes.CDLL(str(Path(ai_edge_litert.__file__).parent / "libLiteRt.so"))
        environment = self._make("CreateEnvironment", 0, None)
        loaded = self._make("CreateModelFromFile", environment, str(model).encode())
        options = self._make("CreateOptions")
        self._call("SetOptionsHardwareAccelerators", options, CPU)
        self._add_options(options, b"runtime_options_string", b"enable_profiling = true\n")
        self._add_options(options, b"xnnpack", f"num_threads = {num_threads}\n".encode())
        self._compiled = self._make("CreateCompiledModel", environment, loaded, options)
        self._profiler = self._make("CompiledModelGetProfiler", self._compiled)
        signature = self._make("GetModelSignature", loaded, _ZERO)
        self._buffers = []
        for kind in ("Input", "Output"):
            count = ctypes.c_size_t()
            self._call(f"GetNumSignature{kind}s", signature, ctypes.byref(count))
            buffers = [self._make_buffer(environment, signature, kind, i) for i in range(count.value)]
            self._buffers += [count, (_Handle * count.value)(*(b.value for b in buffers))]

    def profile(self) -> list[tuple[str, float]]:
        """Name and mean milliseconds of each operator, in the order of execution."""
        for _ in range(WARMUP):
            self._run()
        self._call("StartProfiler", self._profiler)
        for _ in range(RUNS):
            self._run()
        self._call("StopProfiler", self._profiler)
        summary = ctypes.c_char_p()
        self._call("GetProfileSummary", self._profiler, self._compiled, ctypes.byref(summary))
        order = summary.value.decode().split("Run Order")[1].split("Top by")[0]
        matches = (LINE.match(line) for line in order.splitlines())
        return [(match[1], float(match[2])) for match in matches if match]

    def _run(self) -> None:
        self._call("RunCompiledModel", self._compiled, _ZERO, *self._buffers)

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._lib, f"LiteRt{name}")(*arguments)
        if status:
            raise RuntimeError(f"received status {status} from LiteRt{name}")

    def _make(self, name: str, *arguments: object) -> ctypes.c_void_p:
        """Call a function whose last parameter receives a handle."""
        handle = _Handle()
        self._call(name, *arguments, ctypes.byref(handle))
        return handle

    def _add_options(self, options: ctypes.c_void_p, kind: bytes, text: bytes) -> None:
        libc = ctypes.CDLL(None)
        libc.strdup.restype = _Handle
        copy, free = _Handle(libc.strdup(text)), ctypes.cast(libc.free, _Handle)
        self._call("AddOpaqueOptions", options, self._make("CreateOpaqueOptions", kind, copy, free))

    def _make_buffer(
        self, environment: ctypes.c_void_p, signature: ctypes.c_void_p, kind: str, index: int
    ) -> ctypes.c_void_p:
        position = ctypes.c_size_t(index)
        tensor = self._make(f"GetSignature{kind}TensorByIndex", signature, position)
        tensor_type = _TensorType()
        self._call("GetRankedTensorType", tensor, ctypes.byref(tensor_type))
        needs = self._make(f"GetCompiledModel{kind}BufferRequirements", self._compiled, _ZERO, position)
        return self._make(
            "CreateManagedTensorBufferFromRequirements", environment, ctypes.byref(tensor_type), needs
        )


def summarize(operators: list[tuple[str, float]]) -> dict[str, tuple[int, float]]:
    """Count and milliseconds by kind of operator, the slowest kind first."""
    kinds: dict[str, tuple[int, float]] = collections.defaultdict(lambda: (0, 0.0))
    for name, ms in operators:
        inside = name.removeprefix("Delegate/")
        kind = NAMES.get(inside, inside) if inside != name else f"{name}, outside XNNPACK"
        kinds[kind] = (kinds[kind][0] + 1, kinds[kind][1] + ms)
    return dict(sorted(kinds.items(), key=lambda item: -item[1][1]))


def _sum(kinds: dict[str, tuple[int, float]]) -> tuple[int, float]:
    return sum(count for count, _ in kinds.values()), sum(ms for _, ms in kinds.values())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard LiteRT's log, which it writes directly to the standard error of the process."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operators", description="Time by operator, in milliseconds."
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    columns = {}
    for model in args.models:
        for threads in args.threads:
            with _quiet():
                operators = Profiler(model, threads).profile()
            columns[f"{model.stem}, {threads} thread(s)"] = summarize(operators)
    columns |= {name: kinds | {"all": _sum(kinds)} for name, kinds in columns.items()}
    table = pd.DataFrame(columns).map(lambda cell: f"{cell[0]}: {cell[1]:.2f}", na_action="ignore")
    table = table.loc[[*table.index.drop("all"), "all"]]
    print(table.fillna("").rename_axis("operators").to_markdown(disable_numparse=True))


if __name__ == "__main__":
    main()
