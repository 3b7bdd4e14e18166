import json
import sys

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from training.model import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    LungWeights,
    WeightedPooling,
    build_model,
    load_config,
    set_trainable,
)

tf_keras = pytest.importorskip("tf_keras")

GRAY_MEAN, GRAY_STD = IMAGENET_MEAN.mean(), IMAGENET_STD.mean()


@pytest.fixture(scope="module")
def network():
    return build_model(image_size=160)


@pytest.fixture(scope="module")
def source():
    """A network with three channels and random weights, in place of the published one."""
    build = tf_keras.applications.EfficientNetB0
    return build(weights=None, include_top=False, input_shape=(96, 96, 3))


@pytest.fixture(scope="module")
def weights(source, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("weights") / "efficientnetb0_notop.h5"
    source.save_weights(path)
    return str(path)


def test_gray_stem_agrees_with_the_three_channel_network(source, weights):
    """The summed stem sees what the original sees, but for the padded border."""
    target = build_model(image_size=96, weights=weights, padding="keras")
    film = np.random.default_rng(0).uniform(0, 1, (1, 96, 96, 1)).astype(np.float32)

    def stem(model, normalized):
        layers = [model.get_layer(name) for name in ("stem_conv_pad", "stem_conv", "stem_bn")]
        for layer in layers:
            normalized = layer(normalized)
        return normalized.numpy()[:, :-1, :-1]

    color = stem(source, ((film - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32))
    gray = stem(target, ((film - GRAY_MEAN) / GRAY_STD).astype(np.float32))
    assert np.abs(color - gray).max() < 1e-4 * np.abs(color).max() + 1e-5


def test_normalization_is_inside_the_model(network):
    (layer,) = (x for x in network.layers if isinstance(x, tf_keras.layers.Normalization))
    normalize = tf_keras.Model(network.input, layer.output)
    levels = np.array([0, 255], np.float32).reshape(2, 1, 1, 1)
    black, white = normalize(levels * np.ones((1, 160, 160, 2), np.float32)).numpy()[:, 0, 0, 0]
    assert black == pytest.approx(-GRAY_MEAN / GRAY_STD, rel=1e-3)
    assert white == pytest.approx((1 - GRAY_MEAN) / GRAY_STD, rel=1e-3)


def test_stages_train_what_they_should(network):
    model = network
    set_trainable(model, backbone=False)
    assert [v.shape.as_list() for v in model.trainable_variables] == [[1280, 1], [1]] * 2
    set_trainable(model, backbone=True)
    names = [v.name for v in model.trainable_variables]
    assert len(names) > 100
    assert not any("gamma" in name or "moving" in name for name in names)
    set_trainable(model, backbone=True, freeze_norms=False)
    assert any("gamma" in v.name for v in model.trainable_variables)
    set_trainable(model, backbone=True, freeze_until="block7a_expand_conv")
    late = [v.name for v in model.trainable_variables]
    assert 4 < len(late) < len(names)
    assert late[0].startswith("block7a_expand_conv")
    with pytest.raises(ValueError, match="accepted is a layer of efficientnet_b0"):
        set_trainable(model, backbone=True, freeze_until="block99")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_keeps_the_contract_of_shapes(backbone):
    model = build_model(backbone, image_size=64)
    assert model.output_shape == (None, 2)
    assert model.get_layer("pooled").input[0].shape[1:3] == (2, 2)
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 2)).astype(np.float32)
    assert np.isfinite(model(images, training=False)).all()


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50_v2", "vgg16"])
def test_weights_of_other_backbones_see_a_gray_film_as_a_color_one(backbone, tmp_path):
    """With the normalization they were trained with; borders differ where zeros are padded."""
    kind = BACKBONES[backbone]
    source = kind.build(weights=None, include_top=False, input_shape=(64, 64, 3))
    source.save_weights(tmp_path / "weights.h5")
    model = build_model(backbone, 64, str(tmp_path / "weights.h5"), padding="keras")
    film = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 1)).astype(np.float32)
    expected = source(((film / 255 - kind.mean) / kind.std).astype(np.float32), training=False).numpy()
    features = tf_keras.Model(model.input, model.get_layer("pooled").input[0])
    received = features(np.concatenate([film, film], axis=-1), training=False).numpy()
    assert np.abs(expected - received).max() < 0.02 * np.abs(expected).max()


def test_pooling_weighs_the_lungs():
    """Features that are 1 in the left half: their mean is the share of the lungs on that side."""
    weigh, pool = LungWeights(5), WeightedPooling()
    mask = np.zeros((3, 160, 160, 1), np.float32)
    mask[0, 40:120, 8:40] = 255  # left alone
    mask[1, 40:120, 8:24] = mask[1, 40:120, 136:152] = 255  # both sides alike
    features = np.zeros((3, 5, 5, 2), np.float32)
    features[:, :, :2, 0], features[..., 1] = 1, 7
    weights = weigh(mask)
    assert weights.numpy().sum((1, 2, 3)) == pytest.approx(1, rel=1e-5)
    left, constant = pool([features, weights]).numpy().T
    assert left == pytest.approx([1, 0.5, 0.4], abs=0.02)  # without lungs all cells count
    assert constant == pytest.approx(7, rel=1e-5)


def test_weights_are_evened_out_in_training_alone():
    """By a power of its own for each image, so a cell with less lung counts more."""
    mask = np.zeros((64, 160, 160, 1), np.float32)
    mask[:, 32:104, 32:128] = 255  # the fourth row of cells has a quarter of the second's lung
    weigh = LungWeights(5, evenness=0.8)
    plain = weigh(mask).numpy()[..., 0]
    np.testing.assert_array_equal(plain, LungWeights(5)(mask, training=True).numpy()[..., 0])
    evened = weigh(mask, training=True).numpy()[..., 0]
    assert evened.sum((1, 2)) == pytest.approx(1, rel=1e-5)
    ratio = plain[0, 3, 2] / plain[0, 1, 2]
    powers = np.log(evened[:, 3, 2] / evened[:, 1, 2]) / np.log(ratio)
    assert ratio < 0.4
    assert 0.19 < powers.min() < 0.4
    assert 0.8 < powers.max() < 1.01
    assert evened[:, 0, 0].max() < 0.035  # no lung: less than a share of 1 / 25


def test_inner_pooling_leaves_out_what_is_hardly_lung():
    """As the runtime does: an unsure part and the edges have no weight, the middle of the lungs has."""
    mask = np.zeros((1, 160, 160, 1), np.float32)
    mask[0, 32:128, 0:64] = 255
    mask[0, 32:128, 96:160] = 0.8 * 255
    whole, inner = (LungWeights(5, inner=inner)(mask).numpy()[0, ..., 0] for inner in (False, True))
    assert whole[:, 3:].sum() > 0.35
    assert inner[:, 3:].sum() < 0.01
    assert inner[2].sum() > whole[2].sum() + 0.02  # less at the upper and lower edges
    assert inner.sum() == pytest.approx(1, rel=1e-5)


def test_the_small_network_has_no_weights_to_load():
    with pytest.raises(ValueError, match="received weights"):
        build_model("small_cnn", 64, "somewhere.h5")


def test_keras_own_imagenet_weights(source, weights, monkeypatch):
    """``--weights imagenet`` without the download: the same loader on a file of random weights."""
    module = sys.modules["tf_keras.src.applications.efficientnet"]
    monkeypatch.setattr(module.data_utils, "get_file", lambda *_, **__: weights)
    model = build_model(image_size=32, weights="imagenet", padding="keras")
    for name in ("block1a_dwconv", "top_conv"):
        (expected,), (received,) = (m.get_layer(name).get_weights() for m in (source, model))
        assert np.array_equal(expected, received)


def test_padding_goes_where_the_weights_were_trained_with_it(network):
    """Cell i is centred on pixel 32 i under torchvision's padding, on 32 i + 31 under Keras'."""
    shifts = {}
    models = {"torchvision": network, "keras": build_model(image_size=160, padding="keras")}
    for padding, model in models.items():
        pads = [layer for layer in model.layers if isinstance(layer, tf_keras.layers.ZeroPadding2D)]
        assert len(pads) == 5
        # the first pixel that cell i of the features is centred on, from the pads and strides alone
        center, stride = 0, 1
        for pad, kernel in zip(pads, (3, 3, 5, 3, 5), strict=True):
            center += stride * (kernel // 2 - pad.padding[0][0])
            stride *= 2
        shifts[padding] = center
        assert model.get_layer("pooled").input[0].shape[1:3] == (5, 5)
    assert shifts == {"torchvision": 0, "keras": 31}


def test_refusals():
    with pytest.raises(ValueError, match="accepted is 'keras'"):
        build_model(weights="imagenet")
    with pytest.raises(ValueError, match="accepted are torchvision, keras"):
        build_model(padding="same")
    with pytest.raises(ValueError, match=r"evenness 1\.5; accepted is 0\.\.1"):
        build_model(evenness=1.5)
    with pytest.raises(ValueError, match="accepted are efficientnet_b0"):
        build_model("resnet9000")
    with pytest.raises(ValueError, match="multiples of 32"):
        build_model(image_size=100)


def test_weights_file(source, weights):
    model = build_model(image_size=32, weights=weights)
    for name in ("block1a_dwconv", "block7a_project_conv", "top_conv"):
        (expected,), (received,) = (m.get_layer(name).get_weights() for m in (source, model))
        assert np.array_equal(expected, received)


def test_a_run_from_before_a_setting_has_the_value_it_was_trained_with(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"name": "old", "crop_area": 0.5}))
    config = load_config(tmp_path)
    assert (config.evenness, config.augmentation.band_gains) == (0.0, 0.0)
    assert config.augmentation.crop_area == 0.5
