"""int8 post-training quantization of the float32 .tflite file.

The plain converter fails on EfficientNet: swish outputs are skewed, and a range from minimum to maximum
spends the 256 levels on a few outliers. Here activations are quantized to the range between two extreme
percentiles over the calibration images, and weights per channel. The few sensitive layers stay float: the
head (a quantized logit would have at most 256 values), the stem and the first block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from ai_edge_quantizer.algorithm_manager import AlgorithmName

from cxr.classifier import INPUT
from cxr.model_file import SIGNATURE
from training.alterations import alter_background, alter_lungs, fill_blurred, fill_gray
from training.sources import LabelledImages
from training.validation import corrupt

Range = tuple[float, float]

CALIBRATION_FILMS = 256
RANGE_PERCENTILES = (0.1, 99.9)
FLOAT_LAYERS = (
    "StatefulPartitionedCall.*",  # evidence, cause and embedding
    ".*/(rescaling|normalization|stem_|block1a_).*",
)
SAMPLES_PER_FILM = 2048  # values kept of each tensor


def choose_calibration_films(train: LabelledImages, count: int = CALIBRATION_FILMS) -> np.ndarray:
    """Training images with their masks, as many of each class where there are enough.

    Returns:
        uint8 (N, F, F, 2).
    """
    rng = np.random.default_rng(0)
    chosen = []
    for label in (0, 1):
        members = np.flatnonzero(train.labels == label)
        chosen.append(rng.permutation(members)[: count // 2])
    return train.images[rng.permutation(np.concatenate(chosen))]


def vary(films: np.ndarray) -> np.ndarray:
    """Erase the lungs of a quarter of the images, cover what surrounds them in another quarter, and draw
    the changes of another department for the other half.

    A model is undecided without lungs only if its activations are quantized well there too. Calibrated on
    whole images alone, int8 told the classes of images with blurred lungs apart (AUROC .83, float32 .55).

    Args:
        films: uint8 (N, F, F, 2), images and masks.

    Returns:
        uint8 (N, F, F, 2).
    """
    altered = films.copy()
    altered[1::2] = corrupt(films[1::2])
    for i in range(0, len(films), 2):
        fill = (fill_gray, fill_blurred)[i // 2 % 2]
        alter = (alter_lungs, alter_background)[i // 4 % 2]
        altered[i, ..., 0] = alter(films[i, ..., 0], films[i, ..., 1], fill)
    return altered


def percentile_range(values: np.ndarray, percentiles: Range = RANGE_PERCENTILES) -> Range:
    """The range between two percentiles of float (N,)."""
    return tuple(np.percentile(values, percentiles))


def quantize(
    model: bytes,
    films: np.ndarray,
    float_layers: Sequence[str] = FLOAT_LAYERS,
    choose_range: Callable[[np.ndarray], Range] = percentile_range,
) -> bytes:
    """Quantize a float32 .tflite of ``to_tflite``.

    Args:
        model: the float32 flatbuffer.
        films: uint8 (N, S, S, 1), the images that activations are calibrated on.
        float_layers: regular expressions of the tensors that stay float.
        choose_range: gives the range of the 256 levels for the values of an activation.

    Returns:
        The int8 flatbuffer, with the same signature.
    """
    static = quantizer.Quantizer(bytearray(model), recipe.static_wi8_ai8())
    for pattern in float_layers:
        static.update_quantization_recipe(pattern, "*", algorithm_key=AlgorithmName.NO_QUANTIZE)
    ranges = find_activations(static, films)
    for name, values in sample_activations(model, films, set(ranges)).items():
        low, high = choose_range(values)
        shape = np.shape(ranges[name]["min"])
        ranges[name] = {
            "min": np.full(shape, low, np.float32),
            "max": np.full(shape, high, np.float32),
        }
    return bytes(static.quantize(ranges, enable_progress_report=False).quantized_model)


def find_activations(static: quantizer.Quantizer, films: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """The tensors that need a range, by name, with their range on the first image."""
    return static.calibrate({SIGNATURE: [{INPUT: films[:1]}]}, num_threads=1)


def sample_activations(model: bytes, films: np.ndarray, names: set[str]) -> dict[str, np.ndarray]:
    """Values of each float32 activation over all images, at most ``SAMPLES_PER_FILM`` of each image.

    Args:
        model: a float32 flatbuffer.
        films: uint8 (N, S, S, 1).
        names: tensors to sample; those that are not float32 activations are left out.

    Returns:
        float32 (M,) by tensor name.
    """
    interpreter = Interpreter(model_content=model, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    image = interpreter.get_input_details()[0]["index"]
    tensors = {
        t["name"]: t["index"]
        for t in interpreter.get_tensor_details()
        if t["name"] in names and t["dtype"] == np.float32
    }
    rng = np.random.default_rng(0)
    samples: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    for film in films:
        interpreter.set_tensor(image, film[np.newaxis])
        interpreter.invoke()
        for name, index in tensors.items():
            values = interpreter.get_tensor(index).ravel()
            if values.size > SAMPLES_PER_FILM:
                values = values[rng.integers(0, values.size, SAMPLES_PER_FILM)]
            samples[name].append(values)
    return {name: np.concatenate(values) for name, values in samples.items()}
