"""Export of a tiny run end to end."""

import dataclasses
import functools
import gzip
import re
import shutil

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

import training  # noqa: F401  before tensorflow
from cxr import Classifier, LungFinder, ModelCard, read_image
from cxr.lungs import SHIPPED
from cxr.model_file import MODELS_DIR
from export.__main__ import ExportConfig, export
from export.heads import refit_heads
from export.importance import total_cost
from export.measure import measure_again
from export.prune import is_pruned
from export.quantize import choose_calibration_films, percentile_range, quantize, vary
from export.structure import count_channels, load_exported
from export.validate import (
    Report,
    copy_finder,
    format_table,
    write_models,
)
from tests.conftest import draw_film, read_table
from training.views import view_films

tf_keras = pytest.importorskip("tf_keras")
pytestmark = pytest.mark.usefixtures("eagerly")


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
        # nor does it follow lungs
        patch.setattr("export.validate.MAX_ERASED_AUROC", 1.0)
        patch.setattr("export.validate.MIN_TRANSPLANTED_AUROC", 0.0)
        patch.setattr("export.__main__.ROUNDS", (0.6,))
        patch.setattr("export.shrink.ROUNDS", (0.6,))
        patch.setattr("export.shrink.PROBE_BATCHES", 1)
        finder = LungFinder.load()
        config = ExportConfig(sparsity=0.5, epochs=1, keep=0.6, last_epochs=0)
        reports = export(run, config, finder, external=external, teachers=[run])
    write_models(out, reports, format_table(reports, finder))
    copy_finder(SHIPPED, out)
    return out, reports


def test_export_writes_both_models_cards_and_the_table(exported):
    out, reports = exported
    assert {p.name for p in out.iterdir()} == {
        "README.md",
        *(
            f"{name}.{kind}"
            for name in ("pneumonia_float32", "pneumonia_int8", "lungs_int8")
            for kind in ("tflite", "json")
        ),
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
        assert evidence.shape == (80, 80)
        assert evidence.mean() == pytest.approx(predictions[name].logit, rel=1e-3, abs=1e-4)
    ratio = len(reports["int8"].model) / len(reports["float32"].model)
    assert 0.2 < ratio < 0.7  # the names of the tensors are a good part of so small a network


def test_pruning_leaves_half_the_weights_of_fewer_channels(run, model, exported):
    _, pruned = load_exported(run)
    assert total_cost(pruned) <= 0.6 * total_cost(model)
    kernels = {layer.name: layer.get_weights()[0] for layer in pruned.layers if is_pruned(layer)}
    assert len(kernels) == 10  # 4 expansions, 5 projections, the top
    for kernel in kernels.values():
        assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.02)
    stem = pruned.get_layer("stem_conv").get_weights()[0]
    assert np.mean(stem == 0) < 0.05
    _, reports = exported
    sizes = {name: len(gzip.compress(report.model)) for name, report in reports.items()}
    assert sizes["float32"] < 0.5 * sizes["dense float32"]
    provenance = reports["int8"].card.provenance["pruning"]
    assert provenance["channels"] == count_channels(pruned)
    assert provenance["keep"] == 0.6
    assert provenance["criterion"] == "taylor"
    assert len(provenance["teachers"]) == 1


def test_a_share_of_channels_that_is_no_round_is_refused(run):
    with pytest.raises(ValueError, match=r"keep 0\.33; accepted are 1 and 0\.75"):
        export(run, ExportConfig(keep=0.33), LungFinder.load())


def test_external_images_of_one_class_are_refused_before_the_work(run, tmp_path):
    (tmp_path / "NORMAL").mkdir()
    Image.fromarray(draw_film(1, pneumonia=False, size=200)).save(tmp_path / "NORMAL" / "1_0.png")
    with pytest.raises(ValueError, match="accepted is a folder with images of NORMAL and PNEUMONIA"):
        export(run, ExportConfig(keep=1.0), LungFinder.load(), external=tmp_path)


def test_a_model_card_without_markers_is_not_overwritten(tmp_path):
    (tmp_path / "README.md").write_text("no markers")
    report = Report(b"model", Classifier.load("int8").card, np.zeros(1), np.zeros((1, 5, 5)))
    with pytest.raises(ValueError, match="markers"):
        write_models(tmp_path, {"float32": report, "int8": report}, "| a |")
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]


def test_calibration_films_are_of_both_classes_from_the_first_on(tiny_films):
    films = choose_calibration_films(tiny_films, count=16)
    normal = {image.tobytes() for image in tiny_films.images[tiny_films.labels == 0]}
    assert 2 <= sum(film.tobytes() in normal for film in films[:8]) <= 6


def test_fitted_heads_have_the_mean_of_float32(tiny_films):
    """The shipped network, because one that has not been trained has no sensible logits."""
    float32 = (MODELS_DIR / "pneumonia_float32.tflite").read_bytes()
    films = view_films(vary(choose_calibration_films(tiny_films)), 160)[..., :1]
    narrow = functools.partial(percentile_range, percentiles=(2.0, 98.0))  # which shifts the features
    int8 = quantize(float32, films, choose_range=narrow)
    fitted = refit_heads(float32, int8, films)
    assert len(fitted) == len(int8)

    def run(model: bytes) -> np.ndarray:
        runner = Interpreter(model_content=model).get_signature_runner()
        outputs = [runner(image=film[np.newaxis]) for film in films]
        return np.array([[output[head].mean() for head in ("evidence", "cause")] for output in outputs])

    wanted, before, after = run(float32), run(int8), run(fitted)
    shift = np.abs(np.mean(before - wanted, axis=0))
    assert shift.max() > 0.02
    assert np.all(np.abs(np.mean(after - wanted, axis=0)) < np.maximum(0.5 * shift, 0.01))
    assert np.all(np.mean((after - wanted) ** 2, axis=0) < np.mean((before - wanted) ** 2, axis=0))
    with pytest.raises(ValueError, match="0 float32 kernels of evidence; accepted is one"):
        refit_heads(float32, quantize(float32, films, float_layers=()), films)


def test_models_measured_again_keep_their_card(exported, tiny_data, tmp_path, monkeypatch):
    """The same films give the same metrics, and nothing else in a card changes."""
    out, reports = exported
    shutil.copytree(out, tmp_path / "models")
    model = tmp_path / "models" / "pneumonia_int8.tflite"
    card = ModelCard.load(model.with_suffix(".json"))
    emptied = {name: {"value": 0.5, "low": 0.0, "high": 1.0} for name in ("auroc", "accuracy")}
    metrics = {split: values | emptied for split, values in card.metrics.items()}
    del metrics["external"]
    provenance = {name: value for name, value in card.provenance.items() if name != "external"}
    points = {split: {name: [0.5] for name in lists} for split, lists in card.operating_points.items()}
    dataclasses.replace(card, metrics=metrics, provenance=provenance, operating_points=points).save(
        model.with_suffix(".json")
    )
    external = tmp_path / card.provenance["external"]
    for label, seeds in (("NORMAL", (1, 2)), ("PNEUMONIA", (3, 4))):
        (external / label).mkdir(parents=True)
        for seed in seeds:
            film = Image.fromarray(draw_film(seed, label == "PNEUMONIA", size=200))
            film.save(external / label / f"{seed}_000.png")
    monkeypatch.setattr("training.metrics.BOOTSTRAP_RESAMPLES", 100)  # as the export's
    measure_again(model, str(tiny_data), external)
    assert ModelCard.load(model.with_suffix(".json")) == reports["int8"].card
    moved = external.rename(tmp_path / "elsewhere")
    measure_again(model, str(tiny_data), moved)
    again = ModelCard.load(model.with_suffix(".json"))
    assert again.provenance["external"] == "elsewhere"
    measure_again(model, str(tiny_data), None)  # the other hospital's figures stay
    assert ModelCard.load(model.with_suffix(".json")) == again
