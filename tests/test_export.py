"""Export of a tiny run end to end, and its parts."""

import dataclasses
import gzip
import json

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from cxr import Classifier
from export.__main__ import ExportConfig, export, main
from export.convert import build_export_model, to_tflite
from export.prune import is_pruned
from export.validate import QuantizationError, Report, check_loss, format_table, write_models
from training.model import build_model, grad_cam
from training.train import TrainConfig

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
    return model


@pytest.fixture(scope="module")
def run(model, tiny_data, tmp_path_factory):
    config = TrainConfig(
        name="tiny", data=str(tiny_data), weights="none", image_size=64, film_size=96, batch_size=4
    )
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    model.save_weights(folder / "best_weights.h5")
    return folder


def test_evidence_is_grad_cam_and_its_mean_is_the_logit(model, film):
    from cxr import preprocess

    images = np.stack([preprocess(film, 64), preprocess(255 - film, 64)]).astype(np.float32)
    outputs = {k: v.numpy() for k, v in build_export_model(model)(images).items()}
    logits = model.predict(images, verbose=0)
    scale = np.abs(outputs["evidence"]).max()
    assert np.abs(outputs["logit"] - logits).max() < 1e-4 * scale
    assert np.abs(outputs["evidence"].mean((1, 2)) - logits).max() < 1e-4 * scale
    bias = model.get_layer("logit").get_weights()[1]
    cells = outputs["evidence"].shape[1] ** 2
    reference = grad_cam(model, images) * cells + bias
    assert np.abs(outputs["evidence"][..., 0] - reference).max() < 1e-3 * scale
    assert np.ptp(outputs["evidence"]) > 0.01 * scale


def test_weights_decide_the_map(model, film):
    from cxr import preprocess

    image = preprocess(film, 64)[None].astype(np.float32)
    before = build_export_model(model)(image)["evidence"].numpy().ravel()
    other = build_model(image_size=64)
    other.set_weights(model.get_weights())
    kernel = np.random.default_rng(9).standard_normal((1280, 1))
    other.get_layer("logit").set_weights([kernel, np.array([0.0])])
    after = build_export_model(other)(image)["evidence"].numpy().ravel()
    assert np.abs(before - after).max() > 0.1 * np.abs(before).max()


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    (out / "README.md").write_text("# Models\n<!-- table: start -->old<!-- table: end -->\nafter\n")
    with pytest.MonkeyPatch.context() as patch:
        # an untrained network ranks a dozen films by chance, int8 by another; the gate has its own test
        patch.setattr("export.validate.MAX_AUROC_LOSS", 1.0)
        reports = export(run, ExportConfig(sparsity=0.5, epochs=1))
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
    assert all(f"| {name} |" in readme for name in ("dense float32", "float32", "int8"))
    for name in ("float32", "int8"):
        card = Classifier.load(out / f"pneumonia_{name}.tflite").card
        assert card == reports[name].card
        assert card.variant == name
        assert card.input_size == 64
        assert card.provenance["training"]["image_size"] == 64
        assert "data" not in card.provenance["training"]
    assert reports["int8"].card.provenance["quantization"]["calibration_films"] >= 20


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
    from cxr import preprocess

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


def test_a_refused_export_writes_nothing_and_exits_with_1(run, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise QuantizationError("int8 lost too much")

    monkeypatch.setattr("export.__main__.export", refuse)
    out = tmp_path / "models"
    monkeypatch.setattr("sys.argv", ["export", "--run", str(run), "--out", str(out)])
    assert main() == 1
    assert "int8 lost too much" in capsys.readouterr().err
    assert not out.exists()


def test_a_model_card_without_markers_is_not_overwritten(tmp_path):
    (tmp_path / "README.md").write_text("no markers")
    report = Report(b"model", Classifier.load("int8").card, np.zeros(1))
    with pytest.raises(ValueError, match="markers"):
        write_models(tmp_path, {"float32": report, "int8": report}, "| a |")
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]
