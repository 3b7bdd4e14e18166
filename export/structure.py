"""Remove whole channels from an EfficientNet, and replace what they gave by its mean.

A block expands its channels by a 1x1 convolution, filters them by a depthwise one, scales them by
squeeze-and-excitation and projects them back. The expanded channels exist in the block alone, so each can
be removed with its row or column in seven layers. So can the channels of the stem, which the first block
filters. The channels between blocks stay. So do the last features: they cost a fiftieth of the time, and
without most of them the novelty of an image is less certain (models/README.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras

from training.config import TrainConfig
from training.model import CUSTOM_LAYERS, LungWeights, load_config

# the axis of each weight of a layer along which a group's channels lie, or None
BLOCK_AXES = {
    "expand_conv": (3,),
    "expand_bn": (0, 0, 0, 0),
    "dwconv": (2,),
    "bn": (0, 0, 0, 0),
    "se_reduce": (2, None),
    "se_expand": (3, 0),
    "project_conv": (2,),
}
STEM_AXES = {
    "stem_conv": (3,),
    "stem_bn": (0, 0, 0, 0),
    **{
        f"block1a_{name}": axes
        for name, axes in BLOCK_AXES.items()
        if name not in ("expand_conv", "expand_bn")
    },
}
EXPORTED = "exported.keras"  # in a run's folder: the network that was exported
STEM = "block1a_"  # the first block filters the channels of the stem and expands none


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that can be removed: those inside a block.

    Attributes:
        prefix: of the names of the block's layers, such as ``block2a_``.
        axes: by layer, the axes along which the channels lie in its weights.
    """

    prefix: str
    axes: dict[str, tuple[int | None, ...]]

    @property
    def output(self) -> str:
        """The layer whose output the channels are before they are projected."""
        return f"{self.prefix}se_excite"


@dataclasses.dataclass(frozen=True)
class Means:
    """What the channels of a group give on average, float64 (C,): their output, and what
    squeeze-and-excitation sees of them."""

    output: np.ndarray
    squeezed: np.ndarray


def list_groups(model: tf_keras.Model) -> list[Group]:
    """The groups of a network of ``training.model.build_model``, from the stem to the last block.

    Raises:
        ValueError: if the network has no such groups.
    """
    names = {layer.name for layer in model.layers}
    prefixes = [layer.name.removesuffix("expand_conv") for layer in model.layers]
    groups = [
        Group(prefix, {prefix + name: axes for name, axes in BLOCK_AXES.items()})
        for prefix in prefixes
        if f"{prefix}expand_conv" in names and f"{prefix}se_excite" in names
    ]
    if not groups:
        raise ValueError(
            f"received {model.name}, whose channels cannot be removed; accepted are EfficientNets"
        )
    return [Group(STEM, STEM_AXES), *groups]


def keep_channels(
    model: tf_keras.Model, kept: Mapping[str, np.ndarray], means: Mapping[str, Means]
) -> tf_keras.Model:
    """A new network with some channels of each group. The mean of what was removed is added to what the
    next layers get.

    Args:
        model: a network with the groups of ``list_groups``; it is not changed.
        kept: by the prefix of a group, the indices of the channels to keep; other groups stay whole.
        means: by the prefix of a group, what its channels give.
    """
    values = {layer.name: layer.get_weights() for layer in model.layers}
    counts: dict[str, int] = {}
    for group in list_groups(model):
        if group.prefix not in kept:
            continue
        keep = np.asarray(kept[group.prefix])
        removed = np.setdiff1d(np.arange(len(means[group.prefix].output)), keep)
        _add_means(values, group.prefix, removed, means[group.prefix])
        for name, axes in group.axes.items():
            values[name] = [
                value if axis is None else np.take(value, keep, axis)
                for value, axis in zip(values[name], axes, strict=True)
            ]
            counts[name] = len(keep)
        counts[f"{group.prefix}se_reshape"] = len(keep)

    config = model.get_config()
    for layer in config["layers"]:
        count, settings = counts.get(layer["name"]), layer["config"]
        if count and "target_shape" in settings:
            settings["target_shape"] = (1, 1, count)
        if count and layer["name"].endswith(("stem_conv", "expand_conv", "se_expand")):
            settings["filters"] = count
    return _build(config, values)


def pool_inside(model: tf_keras.Model) -> tf_keras.Model:
    """A new network with the same weights that pools as the runtime does, where there surely is lung."""
    config = model.get_config()
    for layer in config["layers"]:
        if layer["class_name"] == LungWeights.__name__:
            layer["config"]["inner"] = True
    return _build(config, {layer.name: layer.get_weights() for layer in model.layers})


def count_channels(model: tf_keras.Model) -> dict[str, int]:
    """How many channels each group of a network has; none for networks without groups."""
    names = {layer.name for layer in model.layers}
    if f"{STEM}dwconv" not in names:
        return {}
    return {group.prefix: model.get_layer(group.output).output_shape[-1] for group in list_groups(model)}


def save_network(model: tf_keras.Model, path: Path) -> None:
    """Save a network and its weights in Keras' own format; the name ends in ``.keras``. A kill leaves no
    part of a file under that name."""
    temporary = path.with_stem(f"new_{path.stem}")
    tf_keras.models.save_model(model, temporary)
    temporary.replace(path)


def load_exported(run: Path) -> tuple[TrainConfig, tf_keras.Model]:
    """A run's configuration, and the network that was exported from it.

    Raises:
        FileNotFoundError: if the run was not exported.
    """
    return load_config(run), load_network(run / EXPORTED)


def load_network(path: Path) -> tf_keras.Model:
    """Load what ``save_network`` has saved.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"received {path.parent}, which lacks {path.name}")
    return tf_keras.models.load_model(path, CUSTOM_LAYERS, compile=False)


def _add_means(
    values: dict[str, list[np.ndarray]], prefix: str, removed: np.ndarray, means: Means
) -> None:
    """Add the mean of removed channels to a bias, or subtract it from the mean of a BatchNorm."""
    kernel, bias = values[f"{prefix}se_reduce"]
    values[f"{prefix}se_reduce"] = [kernel, bias + means.squeezed[removed] @ kernel[0, 0, removed]]
    (kernel,) = values[f"{prefix}project_conv"]
    gamma, beta, moving_mean, moving_variance = values[f"{prefix}project_bn"]
    moving_mean = moving_mean - means.output[removed] @ kernel[0, 0, removed]
    values[f"{prefix}project_bn"] = [gamma, beta, moving_mean, moving_variance]


def _build(config: dict[str, Any], values: Mapping[str, list[np.ndarray]]) -> tf_keras.Model:
    """A network of a configuration, with weights by the name of the layer."""
    model = tf_keras.Model.from_config(config, CUSTOM_LAYERS)
    for layer in model.layers:
        layer.set_weights(values[layer.name])
    return model
