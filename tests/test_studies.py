"""The experiments on the export: formats, layers, sparsities and rounding in training."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from experiments.channels import compare_criteria, sweep_channels
from experiments.fake_quantization import fake_quantize, measure_activation_ranges
from experiments.formats import compare_formats, least_error_range
from experiments.layers import report_layers
from experiments.sparsity import sweep_sparsity
from experiments.study import load_study
from export.prune import prune
from export.structure import EXPORTED, save_network
from tests.conftest import read_table, run_module
from training.config import TrainConfig
from training.views import view_films

tf_keras = pytest.importorskip("tf_keras")
pytestmark = pytest.mark.usefixtures("eagerly")


def test_rounding_in_training_follows_the_ranges(model, tiny_films):
    ranges = measure_activation_ranges(model, view_films(tiny_films.images[:4], 64))
    assert len(ranges) == 12  # 11 swishes outside of squeeze-excite, one addition
    low, high = ranges["block4b_add"][-1]
    rounding = fake_quantize(model.get_layer("block4b_add"), ranges)
    values = rounding([np.linspace(2 * low, 2 * high, 999, dtype=np.float32)[None]] * 2).numpy()
    step = (high - low) / 255
    assert low - step <= values.min() < values.max() <= high + step
    assert len(np.unique(values)) <= 256
    assert fake_quantize(model.get_layer("stem_conv"), ranges) is None
    config = TrainConfig(weights="none", image_size=64, film_size=64, batch_size=4, epochs=1)
    rounding = functools.partial(fake_quantize, ranges=ranges)
    learned = prune(model, config, tiny_films, 0.0, 1, 1e-3, rounding)
    assert [type(layer) for layer in learned.layers] == [type(layer) for layer in model.layers]
    assert not np.array_equal(learned.get_weights()[-2], model.get_weights()[-2])


def test_least_error_ranges_clip_long_tails_alone():
    rng = np.random.default_rng(0)
    even = rng.uniform(-1.0, 3.0, 10_000)
    assert least_error_range(even) == (even.min(), even.max())
    tailed = rng.standard_t(3, 100_000)
    low, high = least_error_range(tailed)
    assert tailed.min() < low < -3.0
    assert 3.0 < high < tailed.max()


@pytest.fixture(scope="module")
def small_study(run, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    shutil.copy(run / "config.json", folder)
    model.save_weights(folder / "best_weights.h5")
    save_network(model, folder / EXPORTED)
    study = load_study(folder, None)
    return dataclasses.replace(study, calibration_films=study.calibration_films[:8])


def test_formats_are_compared_with_float32(small_study):
    table = {row["model"]: row for row in read_table(compare_formats(small_study))}
    sizes = {name: float(row["size, MB"]) for name, row in table.items()}
    assert sizes["float16 weights"] < 0.6 * sizes["float32"]
    assert sizes["weight-only int8"] < 0.35 * sizes["float32"]
    assert table["float32"]["labels as float32"] == "100.0%"
    assert float(table["float16 weights"]["map correlation"]) > 0.6  # of random weights
    assert sum("least squared error" in name for name in table) == 2


def test_layers_are_reported_one_by_one(small_study, monkeypatch):
    monkeypatch.setattr("experiments.layers.BLOCKS", ("stem", "block1", "block4"))
    blocks, activations = map(read_table, report_layers(small_study).split("\n\n"))
    assert [row["int8 alone"] for row in blocks] == ["stem", "block1", "block4"]
    ratios = [float(row["signal to noise, dB"]) for row in activations]
    assert len(ratios) == 12
    assert ratios == sorted(ratios)


def test_sparsities_are_swept(small_study, monkeypatch):
    """With real quantization. The network is pruned once, and given back for all asked."""
    asked, pruned = [], []

    def watch(network, config, films, sparsity, epochs, learning_rate, *rounding):
        asked.append((sparsity, epochs, learning_rate, bool(rounding)))
        if not pruned:
            pruned.append(prune(network, config, films, sparsity, epochs, learning_rate, *rounding))
        return pruned[0]

    monkeypatch.setattr("experiments.sparsity.SPARSITIES", (0.7,))
    monkeypatch.setattr("experiments.sparsity.ROUNDED", 0.7)
    monkeypatch.setattr("experiments.sparsity.prune", watch)
    table = {row["model"]: row for row in read_table(sweep_sparsity(small_study, 1, 1e-4))}
    assert asked == [(0.7, 1, 1e-4, False), (0.7, 1, 1e-4, True)]
    assert list(table) == [
        "not fine-tuned, float32",
        "not fine-tuned, int8",
        "70%, float32",
        "70%, int8",
        "70%, rounded in training, float32",
        "70%, rounded in training, int8",
        "70%, rounded in training, int8 but head",
    ]
    size, zipped = (
        {name: float(row[c]) for name, row in table.items()} for c in ("size, MB", "gzipped, MB")
    )
    for name in ("70%, float32", "70%, rounded in training, float32"):
        assert zipped[name] < 0.6 * zipped["not fine-tuned, float32"]
    for name in table:
        if "int8" in name:
            assert size[name] < 0.5 * size["not fine-tuned, float32"]
        else:
            assert table[name]["labels as float32"] == "100.0%"


def test_channels_are_swept(small_study, monkeypatch):
    monkeypatch.setattr("export.shrink.ROUNDS", (0.5,))
    monkeypatch.setattr("export.shrink.PROBE_BATCHES", 1)
    whole, half = read_table(sweep_channels(small_study, []))
    assert [whole["time of channels"], half["time of channels"]] == ["1.00", "0.50"]
    assert float(half["size, MB"]) < 0.7 * float(whole["size, MB"])
    assert whole["time, 1 thread(s)"] == whole["time, 2 thread(s)"] == "1.00"
    for row in (whole, half):
        assert 0.0 <= float(row["lungs gray AUROC"]) <= 1.0
        assert row["labels as whole float32"].endswith("%")


def test_criteria_are_compared_before_and_after_an_epoch(small_study, monkeypatch):
    monkeypatch.setattr("experiments.channels.CRITERIA", ("norm",))
    monkeypatch.setattr("export.shrink.PROBE_BATCHES", 1)
    # the fine-tune has tests of its own; here, it gives the whole network back
    monkeypatch.setattr("experiments.channels.fine_tune", lambda *arguments: arguments[3][0])
    cut, tuned = read_table(compare_criteria(small_study, []))
    assert [cut["fine-tuned"], tuned["fine-tuned"]] == ["no", "1 epoch"]
    assert cut["criterion"] == tuned["criterion"] == "norm"
    assert cut["validation AUROC"] != tuned["validation AUROC"]


def test_a_study_without_a_run_fails_with_a_sentence(tmp_path):
    result = run_module("experiments.formats", "--run", tmp_path)
    assert result.returncode == 1
    assert "config.json" in result.stderr
