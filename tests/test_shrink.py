"""Removing channels: what is removed, and what is left."""

import dataclasses

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from export import shrink as shrinking
from export.importance import channel_costs, choose_channels, norm_scales, observe, total_cost
from export.shrink import ShrinkConfig, remove_channels, shrink
from export.structure import (
    Means,
    count_channels,
    keep_channels,
    list_groups,
    load_network,
    pool_inside,
    save_network,
)
from training.config import TrainConfig
from training.model import build_from, build_model
from training.optimization import build_loss
from training.views import view_films

tf_keras = pytest.importorskip("tf_keras")
pytestmark = pytest.mark.usefixtures("eagerly")

CONFIG = TrainConfig(weights="none", image_size=64, film_size=64, batch_size=4, epochs=1)


@pytest.fixture(scope="module")
def views(tiny_films):
    return view_films(tiny_films.images[:12], 64).astype(np.float32)


@pytest.fixture(scope="module")
def observed(model, tiny_films, views):
    targets = np.stack([tiny_films.labels[:12], np.zeros(12)], axis=1).astype(np.float32)
    return observe(model, views, targets, build_loss(CONFIG))


def copy(model):
    copied = tf_keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    return copied


def test_groups_hold_all_channels_but_those_between_blocks(model):
    channels = count_channels(model)
    assert len(channels) == 5  # the stem with block 1a, and four blocks that expand
    assert channels["block1a_"] == model.get_layer("stem_conv").filters
    assert channels["block2a_"] == 6 * model.get_layer("block1a_project_conv").filters
    assert channels["block4b_"] == 6 * model.get_layer("block4a_project_conv").filters
    with pytest.raises(ValueError, match="EfficientNets"):
        list_groups(build_model("mobilenet_v2", 64))


def test_keeping_all_channels_changes_nothing(model, views, observed):
    _, means = observed
    everything = {prefix: np.arange(n) for prefix, n in count_channels(model).items()}
    same = keep_channels(model, everything, means)
    np.testing.assert_array_equal(same.predict(views, verbose=0), model.predict(views, verbose=0))


def test_channels_that_give_nothing_are_found_and_removed_without_a_trace(model, views):
    """In each group the first eight channels are cut off from what follows."""
    silent = copy(model)
    for group in list_groups(silent):
        for name, axes in group.axes.items():
            if name.endswith(("se_reduce", "project_conv")):
                layer = silent.get_layer(name)
                kernel, *bias = layer.get_weights()
                index = [slice(None)] * kernel.ndim
                index[axes[0]] = slice(0, 8)
                kernel[tuple(index)] = 0.0
                layer.set_weights([kernel, *bias])
    targets = np.tile(np.float32([[1.0, 0.0]]), (len(views), 1))
    importance, means = observe(silent, views, targets, build_loss(CONFIG))
    for values in importance.values():
        assert values[:8].max() < 1e-9 * values.max()
    kept = {prefix: np.arange(8, n) for prefix, n in count_channels(silent).items()}
    smaller = keep_channels(silent, kept, means)
    assert all(a - b == 8 for a, b in zip(
        count_channels(silent).values(), count_channels(smaller).values(), strict=True
    ))  # fmt: skip
    expected = silent.predict(views, verbose=0)
    np.testing.assert_allclose(smaller.predict(views, verbose=0), expected, rtol=1e-3, atol=1e-3)


def test_the_mean_of_removed_channels_stays(model, views, observed):
    """Channels that are the same in every image can be removed: what follows takes their part."""
    _, means = observed
    constant, prefix = copy(model), "block3a_"
    gamma, beta, *statistics = constant.get_layer(f"{prefix}bn").get_weights()
    gamma[:16], beta[:16] = 0.0, 1.5
    constant.get_layer(f"{prefix}bn").set_weights([gamma, beta, *statistics])
    kernel, bias = constant.get_layer(f"{prefix}se_expand").get_weights()
    kernel[..., :16], bias[:16] = 0.0, 100.0  # excited by 1, whatever the image
    constant.get_layer(f"{prefix}se_expand").set_weights([kernel, bias])
    value = 1.5 / (1.0 + np.exp(-1.5))  # of swish
    output, squeezed = means[prefix].output.copy(), means[prefix].squeezed.copy()
    output[:16] = squeezed[:16] = value
    kept = {prefix: np.arange(16, len(output))}
    expected = constant.predict(views, verbose=0)
    scale = np.abs(expected).max()
    smaller = keep_channels(constant, kept, {prefix: Means(output, squeezed)})
    assert np.abs(smaller.predict(views, verbose=0) - expected).max() < 1e-3 * scale
    forgetful = keep_channels(constant, kept, {prefix: Means(0.0 * output, 0.0 * squeezed)})
    assert np.abs(forgetful.predict(views, verbose=0) - expected).max() > 1e-2 * scale


def test_what_is_worth_most_for_its_cost_is_kept_within_the_budget():
    importance = {"cheap": np.arange(1.0, 33.0), "dear": np.arange(1.0, 33.0)}
    costs = {"cheap": 1.0, "dear": 10.0}
    kept = choose_channels(importance, costs, budget=200.0)
    assert all(len(indices) % 8 == 0 for indices in kept.values())
    assert sum(costs[group] * len(indices) for group, indices in kept.items()) <= 200.0
    assert len(kept["cheap"]) > len(kept["dear"]) >= 8
    for indices in kept.values():  # the most important of each group, in order
        np.testing.assert_array_equal(indices, np.arange(32 - len(indices), 32))
    everything = choose_channels(importance, costs, budget=1e9)
    assert [len(indices) for indices in everything.values()] == [32, 32]


@pytest.mark.parametrize("criterion", ["taylor", "norm"])
def test_channels_are_removed_down_to_the_budget(model, tiny_films, criterion, monkeypatch):
    monkeypatch.setattr(shrinking, "PROBE_BATCHES", 2)
    whole = total_cost(model)
    smaller = remove_channels(model, CONFIG, tiny_films, 0.5 * whole, criterion)
    assert 0.4 * whole < total_cost(smaller) <= 0.5 * whole
    assert smaller.count_params() < model.count_params()
    assert smaller.predict(np.zeros((1, 64, 64, 2), np.float32), verbose=0).shape == (1, 2)


def test_scales_of_norms_are_those_of_the_depthwise_convolutions(model):
    scales = norm_scales(model)
    gamma = model.get_layer("block3a_bn").get_weights()[0]
    np.testing.assert_allclose(scales["block3a_"], np.abs(gamma))
    assert set(scales) == set(channel_costs(model))


def test_rounds_are_saved_and_not_repeated(model, tiny_films, tmp_path, monkeypatch):
    tuned = []

    def note(network, config, films, teachers, epochs, learning_rate, number):
        tuned.append((total_cost(network), epochs, number))
        return network

    monkeypatch.setattr(shrinking, "ROUNDS", (0.7, 0.4))
    monkeypatch.setattr(shrinking, "PROBE_BATCHES", 1)
    monkeypatch.setattr(shrinking, "fine_tune", note)
    settings = ShrinkConfig(round_epochs=2)
    rounds = list(shrink(model, CONFIG, tiny_films, settings, [model], tmp_path))
    assert [share for share, _ in rounds] == [0.7, 0.4]
    assert [(epochs, number) for _, epochs, number in tuned] == [(2, 0), (2, 1)]
    for share, network in rounds:
        assert total_cost(network) <= share * total_cost(model)
    again = list(shrink(model, CONFIG, tiny_films, settings, [model], tmp_path))
    assert len(tuned) == 2
    for (_, old), (_, new) in zip(rounds, again, strict=True):
        assert count_channels(old) == count_channels(new)
        np.testing.assert_array_equal(old.get_weights()[0], new.get_weights()[0])
    other = dataclasses.replace(settings, round_epochs=3)
    with pytest.raises(ValueError, match="another configuration"):
        next(shrink(model, CONFIG, tiny_films, other, [model], tmp_path))
    with pytest.raises(ValueError, match="another configuration"):
        next(shrink(model, CONFIG, tiny_films, settings, [model, model], tmp_path))
    with pytest.raises(ValueError, match="taylor, norm"):
        next(shrink(model, CONFIG, tiny_films, ShrinkConfig(criterion="size"), [model], tmp_path / "x"))


def test_pooling_inside_changes_the_pooling_alone(model, views, tmp_path):
    inside = pool_inside(model)
    for old, new in zip(model.get_weights(), inside.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    save_network(inside, tmp_path / "network.keras")
    told, again, as_before = (
        network.predict(views, verbose=0)
        for network in (inside, load_network(tmp_path / "network.keras"), model)
    )
    np.testing.assert_array_equal(told, again)
    assert np.abs(told - as_before).max() > 1e-6
    everywhere = np.concatenate([views[..., :1], np.full_like(views[..., :1], 255.0)], axis=-1)
    whole, inner = (network.predict(everywhere, verbose=0) for network in (model, inside))
    np.testing.assert_allclose(whole, inner, rtol=1e-4, atol=1e-5)


def test_weights_are_evened_out_as_in_the_run():
    network = build_from(dataclasses.replace(CONFIG, backbone="small_cnn", evenness=0.6))
    layer = pool_inside(network).get_layer("lungs")
    assert (layer.evenness, layer.inner) == (0.6, True)


def test_a_saved_network_is_the_same(model, views, tmp_path):
    save_network(model, tmp_path / "network.keras")
    loaded = load_network(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded.predict(views, verbose=0), model.predict(views, verbose=0))
    with pytest.raises(FileNotFoundError, match=r"lacks other\.keras"):
        load_network(tmp_path / "other.keras")
