"""Every backbone trains and exports; those that have nothing to prune say so."""

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from cxr import Classifier, preprocess
from export.convert import to_tflite
from export.prune import measure_sparsity, prune
from export.validate import blank_card
from training.batches import training_batches
from training.config import TrainConfig
from training.model import BACKBONES, build_from, build_model, set_trainable
from training.optimization import compile_model
from training.sources import load_films, load_split


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_trains_a_step_and_exports(backbone, tiny_data, film):
    config = TrainConfig(
        data=str(tiny_data), weights="none", backbone=backbone, padding="keras", image_size=64,
        film_size=64, batch_size=4, freeze_norms=False,
    )  # fmt: skip
    network = build_from(config)
    before = network.get_weights()
    set_trainable(network, backbone=True, freeze_norms=False)
    compile_model(network, config, 1e-2, 2)
    films = load_split(tiny_data, "train", 64)
    network.fit(training_batches(films, config, 0), steps_per_epoch=1, verbose=0)
    moved = [not np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True)]
    assert np.mean(moved) > 0.9
    flatbuffer = to_tflite(network)
    classifier = Classifier(flatbuffer, blank_card(flatbuffer, "float32", 64, {}), num_threads=1)
    prediction = classifier.predict(film)
    logit = network.predict(preprocess(film, 64)[None].astype(np.float32), verbose=0)[0, 0]
    assert prediction.logit == pytest.approx(logit, rel=1e-3, abs=1e-3)
    assert prediction.evidence.shape == (2, 2)


def test_a_network_without_pointwise_kernels_is_not_pruned(tiny_data):
    network = build_model("small_cnn", image_size=64)
    with pytest.raises(ValueError, match="no 1x1 kernels; accepted is 0"):
        prune(network, TrainConfig(), load_films(tiny_data, "train", 64), 0.5, 1, 1e-4)
    assert measure_sparsity(network) == 0.0
