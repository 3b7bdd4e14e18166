"""Export of a tiny run end to end, and its parts."""

import dataclasses
import functools
import gzip
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import training  # noqa: F401  before tensorflow
from cxr import Classifier, ModelCard, preprocess, read_image
from experiments.fake_quantization import fake_quantize, measure_activation_ranges
from experiments.formats import compare_formats, least_error_range
from experiments.layers import report_layers
from experiments.sparsity import sweep_sparsity
from experiments.study import load_study
from export.__main__ import ExportConfig, export, main
from export.convert import build_export_model, to_tflite
from export.measure import measure_again
from export.prune import is_pruned, measure_sparsity, prune
from export.quantize import choose_calibration_films
from export.validate import (
    QuantizationError,
    Report,
    check_loss,
    format_table,
    gate_cause,
    write_models,
)
from tests.conftest import ROOT, draw_film, read_table
from training.config import TrainConfig
from training.flags import from_flat, to_flat
from training.model import build_model, grad_cam
from training.sources import load_films
from training.validation import load_validation

tf_keras = pytest.importorskip("tf_keras")


@pytest.fixture(scope="module")
def model():
    """Random weights, with a head large enough to give logits of ordinary size."""
    tf_keras.utils.set_random_seed(3)
    model = build_model(image_size=64)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            gamma, *rest = layer.get_weights()
            layer.set_weights([gamma * rng.uniform(1.0, 3.0, gamma.shape), *rest])
    kernel = rng.standard_normal((1280, 1))
    model.get_layer("logit").set_weights([kernel, np.array([0.5])])
    model.get_layer("cause").set_weights([rng.standard_normal((1280, 1)), np.array([-0.5])])
    return model


@pytest.fixture(scope="module")
def run(model, tiny_data, tmp_path_factory):
    config = TrainConfig(
        name="tiny", data=str(tiny_data), weights="none", image_size=64, film_size=96, batch_size=4
    )
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_flat(config)))
    model.save_weights(folder / "best_weights.h5")
    return folder


def test_evidence_is_grad_cam_and_its_mean_is_the_logit(model, film):
    images = np.stack([preprocess(film, 64), preprocess(255 - film, 64)]).astype(np.float32)
    outputs = {k: v.numpy() for k, v in build_export_model(model)(images).items()}
    logits, causes = np.split(model.predict(images, verbose=0), 2, axis=1)
    assert np.abs(outputs["cause"] - causes).max() < 1e-4 * np.abs(causes).max()
    scale = np.abs(outputs["evidence"]).max()
    assert np.abs(outputs["logit"] - logits).max() < 1e-4 * scale
    assert np.abs(outputs["evidence"].mean((1, 2)) - logits).max() < 1e-4 * scale
    bias = model.get_layer("logit").get_weights()[1]
    cells = outputs["evidence"].shape[1] ** 2
    reference = grad_cam(model, images) * cells + bias
    assert np.abs(outputs["evidence"][..., 0] - reference).max() < 1e-3 * scale
    assert np.ptp(outputs["evidence"]) > 0.01 * scale


def test_weights_decide_the_map(model, film):
    image = preprocess(film, 64)[None].astype(np.float32)
    before = build_export_model(model)(image)["evidence"].numpy().ravel()
    other = build_model(image_size=64)
    other.set_weights(model.get_weights())
    kernel = np.random.default_rng(9).standard_normal((1280, 1))
    other.get_layer("logit").set_weights([kernel, np.array([0.0])])
    after = build_export_model(other)(image)["evidence"].numpy().ravel()
    assert np.abs(before - after).max() > 0.1 * np.abs(before).max()


@pytest.fixture(scope="module")
def decoded():
    """The files of the data set that the export has decoded, as often as it has."""
    return []


@pytest.fixture(scope="module")
def exported(run, decoded, tmp_path_factory):
    def record(file):
        decoded.append(file.getvalue())
        return read_image(file)

    external = tmp_path_factory.mktemp("external")
    for label, seeds in (("NORMAL", (1, 2)), ("PNEUMONIA", (3, 4))):
        (external / label).mkdir()
        for seed in seeds:
            film = Image.fromarray(draw_film(seed, label == "PNEUMONIA", size=200))
            film.save(external / label / f"{seed}_000.png")
    out = tmp_path_factory.mktemp("models")
    (out / "README.md").write_text("# Models\n<!-- table: start -->old<!-- table: end -->\nafter\n")
    with pytest.MonkeyPatch.context() as patch:
        # an untrained network ranks a dozen films by chance, int8 by another; the gate has its own test
        patch.setattr("export.validate.MAX_AUROC_LOSS", 1.0)
        patch.setattr("training.sources.read_image", record)
        patch.setattr("training.metrics.BOOTSTRAP_RESAMPLES", 100)
        reports = export(run, ExportConfig(sparsity=0.5, epochs=1), external=external)
    write_models(out, reports, format_table(reports))
    return out, reports


def test_export_writes_both_models_cards_and_the_table(exported):
    out, reports = exported
    assert {p.name for p in out.iterdir()} == {
        "README.md",
        *(f"pneumonia_{v}.{kind}" for v in ("float32", "int8") for kind in ("tflite", "json")),
    }
    readme = (out / "README.md").read_text()
    assert readme.startswith("# Models")
    assert readme.endswith("after\n")
    assert "old" not in readme
    assert [row["model"] for row in read_table(readme)] == ["dense float32", "float32", "int8"]
    assert reports["int8"].card.metrics["external"]["films"] == 4
    assert 0 <= reports["int8"].card.metrics["test"]["cause_auroc"]["value"] <= 1
    for name in ("float32", "int8"):
        card = Classifier.load(out / f"pneumonia_{name}.tflite").card
        assert card == reports[name].card
        assert card.variant == name
        assert card.input_size == 64
        assert re.fullmatch(r"\d+\.\d+\.\d+", card.version)
        assert re.fullmatch(r"unknown|[0-9a-f]{12,}(-dirty)?", card.provenance["training_commit"])
        assert set(card.provenance["data_sha256"]) == {"train", "validation", "test"}
        assert len(set(card.provenance["data_sha256"].values())) == 3
        assert card.provenance["training"]["image_size"] == 64
        assert "data" not in card.provenance["training"]
    assert reports["int8"].card.provenance["quantization"]["calibration_films"] >= 20


def test_export_decodes_each_file_once(exported, decoded):
    assert len(decoded) == 56
    assert len(set(decoded)) == 56


def test_exported_models_keep_the_contract(exported, film):
    out, reports = exported
    predictions = {}
    for name in ("float32", "int8"):
        predictions[name] = Classifier.load(out / f"pneumonia_{name}.tflite").predict(film)
        evidence = predictions[name].evidence
        assert evidence.shape == (2, 2)
        assert evidence.mean() == pytest.approx(predictions[name].logit, rel=1e-3, abs=1e-4)
    ratio = len(reports["int8"].model) / len(reports["float32"].model)
    assert 0.2 < ratio < 0.4


def test_pruning_leaves_half_the_pruned_weights(run, exported):
    pruned = build_model(image_size=64)
    pruned.load_weights(run / "pruned_weights.h5")
    kernels = {layer.name: layer.get_weights()[0] for layer in pruned.layers if is_pruned(layer)}
    assert len(kernels) == 32  # 15 expansions, 16 projections, the top
    for kernel in kernels.values():
        assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.02)
    stem = pruned.get_layer("stem_conv").get_weights()[0]
    assert np.mean(stem == 0) < 0.05
    _, reports = exported
    sizes = {name: len(gzip.compress(report.model)) for name, report in reports.items()}
    assert sizes["float32"] < 0.75 * sizes["dense float32"]


def test_float32_tflite_agrees_with_keras(model, film):
    exported = build_export_model(model)
    image = preprocess(film, 64)
    expected = {k: v.numpy() for k, v in exported(image[None].astype(np.float32)).items()}
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=to_tflite(model)).get_signature_runner("serving_default")
    for name, value in runner(image=image[None]).items():
        scale = np.abs(expected[name]).max()
        assert np.abs(value - expected[name]).max() < 1e-3 * scale


def test_a_lossy_int8_model_is_refused_with_the_figures():
    check_loss(0.99, 0.981)
    check_loss(0.98, 0.99)
    with pytest.raises(QuantizationError, match=r"0\.9790, float32 0\.9900: a loss of 0\.0110"):
        check_loss(0.99, 0.979)
    with pytest.raises(QuantizationError):
        check_loss(0.99, float("nan"))


def test_a_worse_int8_model_is_refused_and_nothing_is_written(run, model, tmp_path, monkeypatch, capsys):
    """The head is the difference of the classes' mean embeddings, so that float32 separates them. What
    is measured in place of int8 is a network with the opposite head."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    config = from_flat(TrainConfig, json.loads((folder / "config.json").read_text()))
    films = load_validation(config).films
    embed = tf_keras.Model(model.input, model.get_layer("pooled").output)
    embeddings = embed.predict(films.images.astype(np.float32), verbose=0)
    means = [embeddings[films.labels == label].mean(axis=0) for label in (0, 1)]
    kernel = (means[1] - means[0])[:, None] / np.linalg.norm(means[1] - means[0])
    good, bad = model_copy(model), model_copy(model)
    good.get_layer("logit").set_weights([kernel, np.zeros(1)])
    bad.get_layer("logit").set_weights([-kernel, np.zeros(1)])
    good.save_weights(folder / "best_weights.h5")
    monkeypatch.setattr("export.__main__.quantize", lambda *_: to_tflite(bad))
    monkeypatch.setattr("training.metrics.BOOTSTRAP_RESAMPLES", 20)  # intervals decide nothing here
    out = tmp_path / "models"
    arguments = ["export", "--run", str(folder), "--out", str(out), "--sparsity", "0"]
    monkeypatch.setattr("sys.argv", arguments)
    assert main() == 1
    message = capsys.readouterr().err
    int8, float32 = (float(v) for v in re.search(r"AUROC of (\S+), float32 (\S+):", message).groups())
    assert float32 > 0.6
    assert int8 == pytest.approx(1 - float32, abs=1e-3)
    assert "0.01 is accepted. Nothing written." in message
    assert not out.exists()


def test_a_model_card_without_markers_is_not_overwritten(tmp_path):
    (tmp_path / "README.md").write_text("no markers")
    report = Report(b"model", Classifier.load("int8").card, np.zeros(1), np.zeros((1, 5, 5)))
    with pytest.raises(ValueError, match="markers"):
        write_models(tmp_path, {"float32": report, "int8": report}, "| a |")
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]


def test_calibration_films_are_of_both_classes_from_the_first_on(tiny_data):
    train = load_films(tiny_data, "train", 64)
    films = choose_calibration_films(train, count=16)
    normal = {image.tobytes() for image in train.images[train.labels == 0]}
    assert 2 <= sum(film.tobytes() in normal for film in films[:8]) <= 6


def test_a_cause_that_one_model_recognizes_badly_on_validation_is_given_by_none():
    card = Classifier.load("int8").card
    aurocs = {"dense float32": (0.75, 0.5), "float32": (0.78, 0.5), "int8": (0.749, 0.99)}
    shown = {}
    for name, (low, test) in aurocs.items():
        metrics = {
            "validation": {"cause_auroc": {"value": 0.83, "low": low, "high": 0.9}},
            "test": {"cause_auroc": {"value": test, "low": test, "high": test}},
        }
        shown[name] = Report(b"", dataclasses.replace(card, metrics=metrics), np.zeros(1), np.zeros(1))
    assert all(report.card.cause is None for report in gate_cause(shown).values())
    del shown["int8"]
    assert gate_cause(shown) == shown
    assert all(report.card.cause == card.cause for report in shown.values())


def test_the_shipped_cards_pass_the_gate_of_the_cause():
    cards = {name: Classifier.load(name).card for name in ("float32", "int8")}
    reports = {name: Report(b"", card, np.zeros(1), np.zeros(1)) for name, card in cards.items()}
    assert all(card.cause for card in cards.values())
    assert gate_cause(reports) == reports


def test_models_measured_again_keep_their_card(exported, tiny_data, tmp_path, monkeypatch):
    """The same films give the same metrics, and nothing else in a card changes."""
    out, reports = exported
    shutil.copytree(out, tmp_path / "models")
    model = tmp_path / "models" / "pneumonia_int8.tflite"
    card = ModelCard.load(model.with_suffix(".json"))
    emptied = {name: {"value": 0.5, "low": 0.0, "high": 1.0} for name in ("auroc", "accuracy")}
    metrics = {split: values | emptied for split, values in card.metrics.items()}
    dataclasses.replace(card, metrics=metrics).save(model.with_suffix(".json"))
    external = tmp_path / "external"
    for label, seeds in (("NORMAL", (1, 2)), ("PNEUMONIA", (3, 4))):
        (external / label).mkdir(parents=True)
        for seed in seeds:
            film = Image.fromarray(draw_film(seed, label == "PNEUMONIA", size=200))
            film.save(external / label / f"{seed}_000.png")
    monkeypatch.setattr("training.metrics.BOOTSTRAP_RESAMPLES", 100)  # as the export's
    measure_again(model, str(tiny_data), external)
    assert ModelCard.load(model.with_suffix(".json")) == reports["int8"].card


def test_pruning_leaves_the_model_that_it_is_given(model, tiny_data):
    films = load_films(tiny_data, "train", 64)
    config = TrainConfig(weights="none", image_size=64, film_size=64, batch_size=4, epochs=1)
    dense = model_copy(model)
    before, trainable = dense.get_weights(), [layer.trainable for layer in dense.layers]
    pruned = prune(dense, config, films, 0.5, 1, 1e-3)
    assert all(np.array_equal(a, b) for a, b in zip(dense.get_weights(), before, strict=True))
    assert [layer.trainable for layer in dense.layers] == trainable
    assert measure_sparsity(dense) == 0.0
    assert measure_sparsity(pruned) == pytest.approx(0.5, abs=0.02)


def test_rounding_in_training_follows_the_ranges(model, tiny_data):
    films = load_films(tiny_data, "train", 64)
    ranges = measure_activation_ranges(model, films.images[:4])
    assert len(ranges) == 42  # 33 swishes outside of squeeze-excite, 9 additions
    low, high = ranges["block3b_add"][-1]
    rounding = fake_quantize(model.get_layer("block3b_add"), ranges)
    values = rounding([np.linspace(2 * low, 2 * high, 999, dtype=np.float32)[None]] * 2).numpy()
    step = (high - low) / 255
    assert low - step <= values.min() < values.max() <= high + step
    assert len(np.unique(values)) <= 256
    assert fake_quantize(model.get_layer("stem_conv"), ranges) is None
    config = TrainConfig(weights="none", image_size=64, film_size=64, batch_size=4, epochs=1)
    rounding = functools.partial(fake_quantize, ranges=ranges)
    learned = prune(model, config, films, 0.0, 1, 1e-3, rounding)
    assert [type(layer) for layer in learned.layers] == [type(layer) for layer in model.layers]
    assert not np.array_equal(learned.get_weights()[-2], model.get_weights()[-2])


def model_copy(model):
    copy = build_model(image_size=64)
    copy.set_weights(model.get_weights())
    return copy


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
    for name in ("best_weights.h5", "pruned_weights.h5"):
        model.save_weights(folder / name)
    study = load_study(folder, None)
    return dataclasses.replace(study, calibration_films=study.calibration_films[:8])


def test_formats_are_compared_with_float32(small_study):
    table = {row["model"]: row for row in read_table(compare_formats(small_study))}
    sizes = {name: float(row["size, MB"]) for name, row in table.items()}
    assert sizes["float16 weights"] < 0.6 * sizes["float32"]
    assert sizes["weight-only int8"] < 0.35 * sizes["float32"]
    agreement = {name: row["labels as float32"] for name, row in table.items()}
    assert agreement["float32"] == agreement["float16 weights"] == "100.0%"
    assert sum("least squared error" in name for name in table) == 2


def test_layers_are_reported_one_by_one(small_study, monkeypatch):
    monkeypatch.setattr("experiments.layers.BLOCKS", ("stem", "block1", "block7"))
    blocks, activations = map(read_table, report_layers(small_study).split("\n\n"))
    assert [row["int8 alone"] for row in blocks] == ["stem", "block1", "block7"]
    ratios = [float(row["signal to noise, dB"]) for row in activations]
    assert len(ratios) == 12
    assert ratios == sorted(ratios)


def test_sparsities_are_swept(small_study, monkeypatch):
    """With real pruning and quantization; what prune is asked for is only written down."""
    asked = []

    def watch(network, config, films, sparsity, epochs, learning_rate, *rounding):
        asked.append((sparsity, epochs, learning_rate, bool(rounding)))
        return prune(network, config, films, sparsity, epochs, learning_rate, *rounding)

    monkeypatch.setattr("experiments.sparsity.SPARSITIES", (0.7,))
    monkeypatch.setattr("experiments.sparsity.prune", watch)
    table = {row["model"]: row for row in read_table(sweep_sparsity(small_study, 1, 1e-4))}
    assert asked == [(0.7, 1, 1e-4, False), (0.3, 1, 1e-4, True)]
    assert list(table) == [
        "not fine-tuned, float32",
        "not fine-tuned, int8",
        "70%, float32",
        "70%, int8",
        "30%, rounded in training, float32",
        "30%, rounded in training, int8",
        "30%, rounded in training, int8 but head",
    ]
    size, zipped = (
        {name: float(row[c]) for name, row in table.items()} for c in ("size, MB", "gzipped, MB")
    )
    assert zipped["70%, float32"] < 0.6 * zipped["not fine-tuned, float32"]
    assert zipped["70%, float32"] < zipped["30%, rounded in training, float32"]
    assert zipped["30%, rounded in training, float32"] < 0.9 * zipped["not fine-tuned, float32"]
    for name in table:
        if "int8" in name:
            assert size[name] < 0.35 * size["not fine-tuned, float32"]
        else:
            assert table[name]["labels as float32"] == "100.0%"


def test_a_study_without_a_run_fails_with_a_sentence(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "experiments.formats", "--run", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "config.json" in result.stderr
    assert "Traceback" not in result.stderr
