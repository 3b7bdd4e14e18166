"""Other backbones train, are compared and export; those that have nothing to prune say so."""

import dataclasses
import json

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from cxr import Classifier, LungFinder, Lungs
from cxr.lungs import lung_box
from experiments.backbones import compare
from export.convert import to_tflite
from export.prune import measure_sparsity, prune
from export.validate import blank_card
from tests.conftest import read_table
from training.batches import training_batches
from training.config import TrainConfig
from training.model import build_from, build_model, set_trainable
from training.optimization import compile_model
from training.views import view_films

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "vgg16", "small_cnn"])
def test_other_backbones_train_a_step_and_export(backbone, tiny_data, tiny_films):
    config = TrainConfig(
        data=str(tiny_data), weights="none", backbone=backbone, padding="keras", image_size=64,
        film_size=64, batch_size=4, freeze_norms=False,
    )  # fmt: skip
    network = build_from(config)
    before = network.get_weights()
    set_trainable(network, backbone=True, freeze_norms=False)
    compile_model(network, config, 1e-2, 2)
    films = tiny_films.to_dataset()
    network.fit(training_batches(films, config, 0), steps_per_epoch=1, verbose=0)
    moved = [not np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True)]
    assert np.mean(moved) > 0.9
    flatbuffer = to_tflite(network)
    finder = LungFinder.load()
    card = blank_card(flatbuffer, "float32", 64, finder, {})
    layers = tiny_films.images[:1]
    mask = np.repeat(np.repeat(layers[0, ..., 1] / 255, 4, 0), 4, 1).astype(np.float32)
    lungs = Lungs(mask, lung_box(layers[0, ..., 1]), cut_off=(), quarter_turns=0)
    prediction = Classifier(flatbuffer, card, finder, num_threads=1).predict(layers[0, ..., 0], lungs)
    logits = network.predict(view_films(layers, 64).astype(np.float32), verbose=0)
    assert prediction.logit == pytest.approx(logits[0, 0], rel=0.05, abs=0.01)
    assert prediction.evidence.shape == (80, 80)


def test_a_network_without_pointwise_kernels_is_not_pruned(tiny_films):
    network = build_model("small_cnn", image_size=64)
    with pytest.raises(ValueError, match="no 1x1 kernels; accepted is 0"):
        prune(network, TrainConfig(), tiny_films, 0.5, 1, 1e-4)
    assert measure_sparsity(network) == 0.0


def test_backbones_are_compared_under_one_protocol(config, small_backbone, tmp_path):
    protocol = dataclasses.replace(config, name="compare", head_epochs=0, padding="keras")
    table = compare(protocol, ["small_cnn", small_backbone], tmp_path)
    rows = read_table(table)
    assert list(rows[0])[4:6] == ["val AUROC", "val accuracy"]
    assert not any("test" in name for name in rows[0])
    assert [row["backbone"] for row in rows] == ["small_cnn", small_backbone]
    assert rows[0]["latency / first"] == "1.00"
    saved = json.loads((tmp_path / "compare" / "small_cnn" / "metrics.json").read_text())
    assert rows[0]["val AUROC"].split()[0] == f"{saved['validation']['auroc']['value']:.3f}"
    (tested,) = read_table(compare(protocol, ["small_cnn"], tmp_path, split="test"))
    assert list(tested)[4:6] == ["test AUROC", "test accuracy"]
    with pytest.raises(ValueError, match="another configuration"):
        compare(dataclasses.replace(protocol, epochs=2), ["small_cnn"], tmp_path)
    assert (tmp_path / "compare" / "small_cnn" / "metrics.json").exists()
