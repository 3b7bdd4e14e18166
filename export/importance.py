"""How much a network needs each of its channels, and what they cost in time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras

from export.structure import STEM, Group, Means, count_channels, list_groups

BATCH = 32

# What an int8 network spends on one thread, in 1x1 products: a depthwise product takes as long as 22 of
# them, and an activation or a scaling of one value as long as 44 (benchmarks/README.md, by operator).
DEPTHWISE_PRODUCT = 22
ELEMENT = 44

Importance = dict[str, np.ndarray]  # float64 (C,) by the prefix of the group


def observe(
    model: tf_keras.Model, views: np.ndarray, targets: np.ndarray, loss: Callable
) -> tuple[Importance, dict[str, Means]]:
    """The first-order Taylor importance of each channel (Molchanov et al. 2019), and its mean.

    The importance is the mean over the images of the squared change of the loss when the channel is
    replaced by its mean, to first order: the sum over its cells of gradient times deviation.

    Args:
        model: a network of ``training.model.build_model``.
        views: float32 (N, S, S, 2), as the network gets them in training.
        targets: float32 (N, 2).
        loss: from targets and logits (B, 2) to (B,), as in training.

    Returns:
        The importance and the means, by the prefix of the group.
    """
    groups = list_groups(model)
    outputs = [model.get_layer(group.output).output for group in groups]
    squeezed = [model.get_layer(f"{group.prefix}se_squeeze").output for group in groups]
    probe = tf_keras.Model(model.input, [*outputs, *squeezed, model.output])

    @tf.function
    def differentiate(batch: tf.Tensor, wanted: tf.Tensor) -> tuple[list[tf.Tensor], ...]:
        with tf.GradientTape() as tape:
            *values, logits = probe(batch, training=False)
            total = tf.reduce_sum(loss(wanted, logits))
        values, squeezes = values[: len(groups)], values[len(groups) :]
        changes = []
        for value, gradient in zip(values, tape.gradient(total, values), strict=True):
            deviation = value - tf.reduce_mean(value, (0, 1, 2), keepdims=True)
            changes.append(tf.reduce_sum(tf.reduce_sum(gradient * deviation, (1, 2)) ** 2, 0))
        means = [tf.reduce_sum(tf.reduce_mean(value, (1, 2)), 0) for value in values]
        return changes, means, [tf.reduce_sum(squeeze, 0) for squeeze in squeezes]

    sums: list[np.ndarray] = []
    for start in range(0, len(views), BATCH):
        parts = differentiate(views[start : start + BATCH], targets[start : start + BATCH])
        flat = [part.numpy().astype(np.float64) for part in tf.nest.flatten(parts)]
        sums = [a + b for a, b in zip(sums, flat, strict=True)] if sums else flat
    changes, means, squeezes = (
        [total / len(views) for total in sums[a:b]]
        for a, b in ((0, len(groups)), (len(groups), 2 * len(groups)), (2 * len(groups), None))
    )
    importance = {group.prefix: change for group, change in zip(groups, changes, strict=True)}
    found = {
        group.prefix: Means(mean, squeeze)
        for group, mean, squeeze in zip(groups, means, squeezes, strict=True)
    }
    return importance, found


def norm_scales(model: tf_keras.Model) -> Importance:
    """The scale of each channel's BatchNorm as its importance (Liu et al. 2017), by group."""
    names = {group.prefix: f"{group.prefix}bn" for group in list_groups(model)}
    return {p: np.abs(model.get_layer(name).get_weights()[0]).astype(float) for p, name in names.items()}


def channel_costs(model: tf_keras.Model) -> dict[str, float]:
    """The time that a channel of each group costs, in 1x1 products of an int8 network."""
    return {group.prefix: _cost(model, group) for group in list_groups(model)}


def total_cost(model: tf_keras.Model) -> float:
    """The time that all channels of all groups cost, in the unit of ``channel_costs``."""
    counts = count_channels(model)
    return sum(cost * counts[prefix] for prefix, cost in channel_costs(model).items())


def _cost(model: tf_keras.Model, group: Group) -> float:
    def cells(name: str) -> int:
        return int(np.prod(model.get_layer(name).output_shape[1:3]))

    first = "stem_conv" if group.prefix == STEM else f"{group.prefix}expand_conv"
    expand, depthwise, project = (
        model.get_layer(name) for name in (first, f"{group.prefix}dwconv", f"{group.prefix}project_conv")
    )
    products = expand.kernel_size[0] ** 2 * expand.input_shape[-1]
    filtered = DEPTHWISE_PRODUCT * depthwise.kernel_size[0] ** 2
    return cells(first) * (products + ELEMENT) + cells(project.name) * (
        filtered + 2 * ELEMENT + project.filters
    )


def choose_channels(
    importance: Importance, costs: dict[str, float], budget: float, multiple: int = 8
) -> dict[str, np.ndarray]:
    """The channels that are worth most for the time that they cost, within a budget.

    Args:
        importance: float64 (C,) by group.
        costs: of a channel, by group.
        budget: what all kept channels may cost.
        multiple: a group keeps a multiple of this, as vector units want it, and at least one.

    Returns:
        The indices to keep, ascending, by group.
    """

    def count(worth: float) -> dict[str, int]:
        """How many channels each group keeps if their importance for the cost must be above ``worth``."""
        counts = {}
        for group, values in importance.items():
            wanted = np.sum(values / costs[group] > worth) / multiple
            counts[group] = min(max(round(wanted), 1) * multiple, len(values))
        return counts

    worths = np.sort(np.concatenate([v / costs[group] for group, v in importance.items()]))
    low, high = 0, len(worths) - 1  # the least worth whose channels fit the budget
    while low < high:
        middle = (low + high) // 2
        total = sum(n * costs[group] for group, n in count(worths[middle]).items())
        low, high = (low, middle) if total <= budget else (middle + 1, high)
    kept = count(worths[low])
    return {g: np.sort(np.argsort(-v, kind="stable")[: kept[g]]) for g, v in importance.items()}
