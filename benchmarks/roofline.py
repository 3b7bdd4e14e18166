"""The roofline of the hardware: multiply-accumulates of a network over the peak rate of one core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

# Multiply-accumulates per cycle and core of a Xeon, by Intel's optimization manual: two 512-bit ports of
# 16 float32 or 64 int8 lanes (VNNI), or a tile multiplication of 16 x 16 x 64 int8 in 16 cycles (AMX).
PER_CYCLE = {
    "avx512f": ("float32, AVX-512", 32),
    "avx512_vnni": ("int8, AVX-512 VNNI", 128),
    "amx_int8": ("int8, AMX", 1024),
}


def count_macs(model: Path) -> int:
    """Multiply-accumulates of the convolutions and dense layers of a .tflite file for one input."""
    interpreter = Interpreter(str(model))
    interpreter.allocate_tensors()
    shapes = {t["index"]: t["shape"] for t in interpreter.get_tensor_details()}
    macs = 0
    for op in interpreter._get_ops_details():
        if op["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            weights = shapes[op["inputs"][1]]  # (out, ..., in); depthwise: (1, height, width, channels)
            taps = weights[1:3] if op["op_name"] == "DEPTHWISE_CONV_2D" else weights[1:]
            macs += int(np.prod(shapes[op["outputs"][0]])) * int(np.prod(taps))
    return macs


def peak_macs_per_second() -> dict[str, float]:
    """Peak rate of one core by instruction set, at the clock in /proc/cpuinfo; empty if it has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {name.strip(): value.split() for name, value in fields.items()}
    if "cpu MHz" not in fields:
        return {}
    hertz = float(fields["cpu MHz"][0]) * 1e6
    flags = fields.get("flags", [])
    return {name: macs * hertz for flag, (name, macs) in PER_CYCLE.items() if flag in flags}
