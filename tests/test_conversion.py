"""The network that is exported, its pruning, and the gates that a model has to pass."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from cxr import Classifier, Lungs, preprocess
from cxr.classifier import spread_evidence
from cxr.lungs import lung_box
from export.__main__ import main
from export.convert import build_export_model, to_tflite
from export.prune import measure_sparsity, prune
from export.structure import EXPORTED
from export.validate import (
    MIN_CAUSE_AUROC,
    QuantizationError,
    Report,
    check_loss,
    gate_cause,
)
from tests.conftest import draw_lungs
from training.config import TrainConfig
from training.flags import from_flat
from training.model import grad_cam
from training.validation import load_validation
from training.views import view_films

tf_keras = pytest.importorskip("tf_keras")
pytestmark = pytest.mark.usefixtures("eagerly")


def test_evidence_is_grad_cam_and_its_mean_is_the_logit(model, film):
    """The mean over the lungs: in the network's own weights, and spread over the film by the runtime."""
    mask = np.logical_or(*draw_lungs())
    layers = np.stack([np.stack([image, 255 * mask], axis=-1) for image in (film, 255 - film)])
    images = view_films(layers.astype(np.uint8), 64).astype(np.float32)
    outputs = {k: v.numpy() for k, v in build_export_model(model)(images[..., :1]).items()}
    logits, causes = np.split(model.predict(images, verbose=0), 2, axis=1)
    scale = float(np.abs(outputs["evidence"]).max())
    for cells, expected in ((outputs["evidence"], logits), (outputs["cause"], causes)):
        weights = model.get_layer("lungs")(images[..., 1:]).numpy()
        assert np.abs((cells * weights).sum((1, 2)) - expected).max() < 1e-3 * scale
    lungs = Lungs(mask=mask.astype(np.float32), box=lung_box(mask), cut_off=(), quarter_turns=0)
    evidence, weights = spread_evidence(outputs["evidence"][0, ..., 0], lungs)
    assert np.sum(outputs["evidence"][0, ..., 0] * weights) == pytest.approx(evidence.mean(), rel=1e-5)
    assert evidence.mean() == pytest.approx(logits[0, 0], abs=0.05 * scale)
    bias = model.get_layer("logit").get_weights()[1]
    cells = outputs["evidence"].shape[1] ** 2
    reference = grad_cam(model, images) * cells + bias
    assert np.abs(outputs["evidence"][..., 0] - reference).max() < 1e-3 * scale
    assert np.ptp(outputs["evidence"]) > 0.01 * scale


def test_weights_decide_the_map(model, film):
    image = preprocess(film, 64)[None].astype(np.float32)
    before = build_export_model(model)(image)["evidence"].numpy().ravel()
    other = model_copy(model)
    head = other.get_layer("logit")
    head.set_weights([np.random.default_rng(9).standard_normal(head.kernel.shape), np.array([0.0])])
    after = build_export_model(other)(image)["evidence"].numpy().ravel()
    assert np.abs(before - after).max() > 0.1 * np.abs(before).max()


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
    (folder / EXPORTED).unlink(missing_ok=True)  # of another test
    config = from_flat(TrainConfig, json.loads((folder / "config.json").read_text()))
    films = load_validation(config).films
    embed = tf_keras.Model(model.input, model.get_layer("pooled").output)
    embeddings = embed.predict(view_films(films.images, 64).astype(np.float32), verbose=0)
    means = [embeddings[films.labels == label].mean(axis=0) for label in (0, 1)]
    kernel = (means[1] - means[0])[:, None] / np.linalg.norm(means[1] - means[0])
    good, bad = model_copy(model), model_copy(model)
    good.get_layer("logit").set_weights([kernel, np.zeros(1)])
    bad.get_layer("logit").set_weights([-kernel, np.zeros(1)])
    good.save_weights(folder / "best_weights.h5")
    monkeypatch.setattr("export.__main__.quantize", lambda *_: to_tflite(bad))
    monkeypatch.setattr("export.__main__.refit_heads", lambda _, int8, films: int8)
    monkeypatch.setattr("training.metrics.BOOTSTRAP_RESAMPLES", 20)  # intervals decide nothing here
    out = tmp_path / "models"
    arguments = ["export", "--run", str(folder), "--out", str(out), "--keep", "1"]
    monkeypatch.setattr("sys.argv", arguments)
    assert main() == 1
    message = capsys.readouterr().err
    int8, float32 = (float(v) for v in re.search(r"AUROC of (\S+), float32 (\S+):", message).groups())
    assert float32 > 0.6
    assert int8 == pytest.approx(1 - float32, abs=1e-3)
    assert "0.01 is accepted. Nothing written." in message
    assert not out.exists()
    assert not (folder / EXPORTED).exists()


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


def test_the_shipped_cards_follow_the_gate_of_the_cause():
    cards = {name: Classifier.load(name).card for name in ("float32", "int8")}
    lows = [card.metrics["validation"]["cause_auroc"]["low"] for card in cards.values()]
    assert [card.cause is None for card in cards.values()] == [min(lows) < MIN_CAUSE_AUROC] * 2


def test_pruning_leaves_the_model_that_it_is_given(model, tiny_films):
    config = TrainConfig(weights="none", image_size=64, film_size=64, batch_size=4, epochs=1)
    dense = model_copy(model)
    before, trainable = dense.get_weights(), [layer.trainable for layer in dense.layers]
    pruned = prune(dense, config, tiny_films, 0.5, 1, 1e-3)
    assert all(np.array_equal(a, b) for a, b in zip(dense.get_weights(), before, strict=True))
    assert [layer.trainable for layer in dense.layers] == trainable
    assert measure_sparsity(dense) == 0.0
    assert measure_sparsity(pruned) == pytest.approx(0.5, abs=0.02)


def model_copy(model):
    copy = tf_keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy
