"""Convert torchvision's EfficientNet_B0 checkpoint into the .h5 file that training starts from.

The checkpoint is public: ``https://download.pytorch.org/models/efficientnet_b0_rwightman-7f5810bc.pth``.
PyTorch reads it (``pip install torch --index-url https://download.pytorch.org/whl/cpu``). An ``.npz``
file of the same arrays is accepted without PyTorch::

    python -m training.convert_torchvision efficientnet_b0_rwightman-7f5810bc.pth weights.h5

Kernels and biases are the checkpoint's own. torchvision adds 1e-5 to a variance and Keras adds 1e-3, so
each gamma is adjusted until both networks compute the same. torchvision pads its stride-2 convolutions
symmetrically: train with ``--padding torchvision``, the default.

The BatchNorm statistics are the checkpoint's own, too, unless an option replaces them. The published run
started from a copy of these weights whose statistics had drifted on other images. They had been estimated
again on the 1000 images of https://github.com/EliSchwartz/imagenet-sample-images, in 10 batches of 100.
``--images`` makes such an estimate on a folder; ``--statistics`` takes the arrays of one that exists.
We have not compared the kernels of that copy with those of the public file.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tf_keras
from PIL import Image, ImageOps
from tf_keras import layers

from training.model import IMAGENET_MEAN, IMAGENET_STD, pad_both_sides

State = dict[str, np.ndarray]

TORCH_EPSILON = 1e-5  # of torchvision's BatchNorm
STATISTICS = ("running_mean", "running_var")
IMAGE_SIZE = 224  # px, of the images that statistics are estimated on
BORDER = 16 / 256  # of each side, cut off before: torchvision resizes to 256 px and crops to 224
BATCH_SIZE = 100
EXTENSIONS = (".jpeg", ".jpg", ".png")

_ENDS = {"stem_conv": "0.0", "stem_bn": "0.1", "top_conv": "8.0", "top_bn": "8.1"}
_PARTS = {  # of a block, in the order of computation; the first stage lacks the expansion
    "expand_conv": (0, "0"),
    "expand_bn": (0, "1"),
    "dwconv": (1, "0"),
    "bn": (1, "1"),
    "se_reduce": (2, "fc1"),
    "se_expand": (2, "fc2"),
    "project_conv": (3, "0"),
    "project_bn": (3, "1"),
}


def convert(state: State) -> tf_keras.Model:
    """The Keras network of a checkpoint, without its top.

    Args:
        state: arrays float32 under the names of torchvision's EfficientNet_B0, kernels (out, in, height,
            width). Others (the classifier, counts of batches) are ignored.

    Returns:
        EfficientNetB0 of 224 px, three channels. Its stride-2 layers pad as Keras does; the file of its
        weights fits either padding.

    Raises:
        ValueError: if an array is missing, or has another shape.
    """
    network = tf_keras.applications.EfficientNetB0(weights=None, include_top=False)
    _set_weights(network, state)
    return network


def read_state(path: Path) -> State:
    """The arrays of a ``.pth`` file (a state dict) or an ``.npz`` file. Neither can run code.

    Raises:
        ValueError: if the file cannot be read, or needs PyTorch, which is not installed.
    """
    if not path.is_file():
        raise ValueError(f"received {path}, which is no file; accepted is a .pth or .npz file")
    if path.suffix != ".npz":
        return _read_torch(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"received {path}, which cannot be read: {error}") from error


def estimate_statistics(state: State, folder: Path) -> State:
    """Estimate the BatchNorm statistics again: the mean, over batches, of each batch's own.

    Each BatchNorm normalizes by its batch, as in training, in torchvision's network (padding, epsilon).

    Args:
        state: as for ``convert``. Its own statistics are not used.
        folder: JPEG or PNG images, in any subfolders, as many as possible of what ImageNet shows.

    Returns:
        ``running_mean`` and ``running_var`` (unbiased) of each BatchNorm, under torchvision's names.

    Raises:
        ValueError: if the folder holds no image, or as ``convert``.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
    if not paths:
        raise ValueError(f"received {folder}; accepted is a folder of JPEG or PNG images")
    network = tf_keras.applications.EfficientNetB0(
        weights=None, include_top=False, drop_connect_rate=0.0, input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3)
    )
    network = tf_keras.models.clone_model(network, clone_function=pad_both_sides)
    norms = [layer for layer in network.layers if isinstance(layer, layers.BatchNormalization)]
    for layer in norms:
        layer.epsilon = TORCH_EPSILON
    _set_weights(network, state)
    for start in range(0, len(paths), BATCH_SIZE):
        batch = np.stack([_read_color(path) for path in paths[start : start + BATCH_SIZE]])
        for layer in norms:
            layer.momentum = start / (start + len(batch))  # the mean of all batches so far, by size
        network(batch, training=True)
    return {
        f"{_torch_name(layer.name)}.{name}": value
        for layer in norms
        for name, value in zip(STATISTICS, layer.get_weights()[2:], strict=True)
    }


def _read_torch(path: Path) -> State:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"received {path}, which needs PyTorch: pip install torch --index-url "
            "https://download.pytorch.org/whl/cpu; accepted without it is an .npz file of the same arrays"
        ) from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.numpy() for name, tensor in tensors.items()}
    except Exception as error:  # a damaged file makes the reader raise almost anything
        raise ValueError(
            f"received {path}; accepted is a state dict, tensors and nothing else"
        ) from error


def _read_color(path: Path) -> np.ndarray:
    """An image as torchvision prepares it, float32 (224, 224, 3), 0..255."""
    with Image.open(path) as image:
        size = (IMAGE_SIZE, IMAGE_SIZE)
        cropped = ImageOps.fit(image.convert("RGB"), size, Image.Resampling.BICUBIC, bleed=BORDER)
    return np.asarray(cropped, np.float32)


def _set_weights(network: tf_keras.Model, state: State) -> None:
    for layer in network.layers:
        if isinstance(layer, layers.Normalization):
            layer.set_weights([IMAGENET_MEAN, IMAGENET_STD.astype(np.float32) ** 2, np.int64(0)])
        elif layer.weights:
            values = list(_to_keras(layer, state))
            expected, received = ([v.shape for v in some] for some in (layer.weights, values))
            if [tuple(shape) for shape in expected] != received:
                raise ValueError(
                    f"received arrays of shape {received} for {layer.name}; accepted are {expected}, "
                    "those of efficientnet_b0"
                )
            layer.set_weights(values)


def _to_keras(layer: layers.Layer, state: State) -> Iterator[np.ndarray]:
    """A layer's weights, in Keras' order and layout."""
    name = _torch_name(layer.name)
    if isinstance(layer, layers.BatchNormalization):
        parts = ("weight", "bias", *STATISTICS)
        gamma, beta, mean, variance = (_get(state, name, part) for part in parts)
        keras, torch = (np.sqrt(variance + np.float32(e)) for e in (layer.epsilon, TORCH_EPSILON))
        yield gamma * keras / torch  # float32 throughout: the published file is met bit by bit
        yield from (beta, mean, variance)
        return
    kernel = _get(state, name, "weight")
    is_depthwise = isinstance(layer, layers.DepthwiseConv2D)
    yield kernel.transpose(2, 3, 0, 1) if is_depthwise else kernel.transpose(2, 3, 1, 0)
    if layer.use_bias:
        yield _get(state, name, "bias")


def _torch_name(layer: str) -> str:
    """features.3.1.block.2.fc1 for block3b_se_reduce."""
    if layer in _ENDS:
        return f"features.{_ENDS[layer]}"
    stage, letter, part = re.fullmatch(r"block(\d)([a-z])_(\w+)", layer).groups()
    position, name = _PARTS[part]
    position -= stage == "1"
    return f"features.{stage}.{ord(letter) - ord('a')}.block.{position}.{name}"


def _get(state: State, name: str, part: str) -> np.ndarray:
    try:
        return state[f"{name}.{part}"]
    except KeyError:
        raise ValueError(
            f"received a checkpoint without {name}.{part}; accepted is a state dict of efficientnet_b0"
        ) from None


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.convert_torchvision", description=__doc__.split("\n")[0]
    )
    parser.add_argument("checkpoint", type=Path, help=".pth of torchvision, or .npz of the same arrays")
    parser.add_argument("out", type=Path, help="the .h5 file to write")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--statistics", type=Path, help=".npz of BatchNorm statistics to use instead")
    source.add_argument("--images", type=Path, help="folder of images to estimate the statistics on")
    args = parser.parse_args()
    try:
        state = read_state(args.checkpoint)
        if args.statistics:
            state |= read_state(args.statistics)
        elif args.images:
            state |= estimate_statistics(state, args.images)
        convert(state).save_weights(args.out)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    print(args.out)


if __name__ == "__main__":
    main()
