"""Fit the heads of an int8 model again.

Rounding shifts the features of all images alike to some degree, so the logits of int8 are a little too
high or too low as a whole (Nagel et al. 2019 call this biased error). The heads stay float and are linear
in the features. So their kernels are corrected, by ridge regression, until the mean of the cells is that
of float32 again.
"""

from __future__ import annotations

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from cxr.classifier import INPUT

HEAD_FILMS = 1024  # training images that the heads are fitted on
HEADS = ("evidence", "cause")
FEATURES = "embedding"  # the mean of the cells' features, of which the heads' mean is a linear function
RIDGE = 1.0  # of the mean squared length of the features


def refit_heads(float32: bytes, int8: bytes, films: np.ndarray) -> bytes:
    """Correct the kernels of the heads of an int8 model.

    Args:
        float32: the flatbuffer that the int8 one was made from.
        int8: a flatbuffer of ``quantize`` whose heads are float.
        films: uint8 (N, S, S, 1), images to fit on.

    Returns:
        A flatbuffer of the same size with other kernels.

    Raises:
        ValueError: if a head is not float.
    """
    wanted, found = (_run(model, films) for model in (float32, int8))
    features = found[FEATURES]
    products = features @ features.T
    products += RIDGE * np.diag(products).mean() * np.eye(len(films))
    for head in HEADS:
        missing = wanted[head] - found[head]
        int8 = _change_kernel(int8, head, features.T @ np.linalg.solve(products, missing))
    return int8


def _run(model: bytes, films: np.ndarray) -> dict[str, np.ndarray]:
    """Mean log-odds (N,) of each head, and features (N, C), float64."""
    run = Interpreter(model_content=model, num_threads=1).get_signature_runner()
    outputs = [run(**{INPUT: film[np.newaxis]}) for film in films]
    means = {head: np.array([float(output[head].mean()) for output in outputs]) for head in HEADS}
    return means | {FEATURES: np.concatenate([output[FEATURES] for output in outputs]).astype(np.float64)}


def _change_kernel(model: bytes, head: str, change: np.ndarray) -> bytes:
    """Add float (C,) to the kernel of a head. Its bytes are found by their content."""
    interpreter = Interpreter(model_content=model)
    kernels = [
        interpreter.get_tensor(tensor["index"])
        for tensor in interpreter.get_tensor_details()
        if f"{head}_cells/Conv2D" in tensor["name"] and tensor["dtype"] == np.float32
    ]
    kernels = [kernel for kernel in kernels if kernel.size == len(change)]
    if len(kernels) != 1 or model.count(kernels[0].tobytes()) != 1:
        raise ValueError(
            f"received a model with {len(kernels)} float32 kernels of {head}; accepted is one"
        )
    return model.replace(kernels[0].tobytes(), (kernels[0] + change).astype(np.float32).tobytes())
