import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr import Classifier, InvalidModelError, measure_latency, preprocess, read_image
from cxr.classifier import MODEL_NAMES, MODELS_DIR
from tests.conftest import SAMPLES

METRICS = (
    "auroc", "accuracy", "sensitivity", "specificity", "precision", "f1", "brier", "ece", "certain",
    "certain_accuracy",
)  # fmt: skip
EXPECTED = json.loads((Path(__file__).parent / "expected_probabilities.json").read_text())


@pytest.fixture(scope="module", params=MODEL_NAMES)
def classifier(request) -> Classifier:
    return Classifier.load(request.param)


@pytest.fixture
def model_copy(tmp_path) -> Path:
    for suffix in (".tflite", ".json"):
        shutil.copy(MODELS_DIR / f"pneumonia_int8{suffix}", tmp_path / f"copy{suffix}")
    return tmp_path / "copy.tflite"


@pytest.mark.parametrize("sample", sorted(p.name for p in SAMPLES.glob("*.png")))
def test_samples_get_their_committed_probabilities(classifier, sample):
    prediction = classifier.predict(read_image(SAMPLES / sample))
    expected = EXPECTED[classifier.card.variant][sample]
    assert prediction.probability == pytest.approx(expected, abs=0.03)
    assert prediction.label == ("PNEUMONIA" if sample.startswith("pneumonia") else "NORMAL")


def test_prediction_is_consistent(classifier, film):
    prediction = classifier.predict(film)
    card = classifier.card
    side = card.input_size // 32
    assert prediction.evidence.shape == (side, side)
    assert prediction.embedding.shape == (1280,)
    assert prediction.evidence.dtype == prediction.embedding.dtype == np.float32
    assert prediction.evidence.mean() == pytest.approx(prediction.logit, abs=1e-4)
    odds = np.exp(prediction.logit / card.temperature + card.offset)
    assert prediction.probability == pytest.approx(odds / (1 + odds))
    assert prediction.label == card.labels[int(prediction.probability >= card.threshold)]
    assert prediction.uncertain == (card.uncertain[0] <= prediction.probability <= card.uncertain[1])
    assert set(prediction.latency_ms) == {"preprocess", "inference", "screening"}
    assert all(ms > 0 for ms in prediction.latency_ms.values())


def test_the_cause_is_told_of_pneumonia_alone(model_copy):
    normal, pneumonia = (read_image(SAMPLES / f"{name}_1.png") for name in ("normal", "pneumonia"))
    edit_card(model_copy, cause={"temperature": 2.0, "offset": 0.5})
    classifier = Classifier.load(model_copy)
    assert classifier.predict(normal).viral_probability is None
    prediction = classifier.predict(pneumonia)
    odds = np.exp(prediction.cause / 2.0 + 0.5)
    assert prediction.viral_probability == pytest.approx(odds / (1 + odds))
    edit_card(model_copy, cause=None)
    assert Classifier.load(model_copy).predict(pneumonia).viral_probability is None


def test_size_does_not_matter(classifier):
    pixels = read_image(SAMPLES / "pneumonia_1.png")
    doubled = pixels.repeat(2, axis=0).repeat(2, axis=1)
    once, twice = (classifier.predict(p).probability for p in (pixels, doubled))
    assert once == pytest.approx(twice, abs=0.05)


def test_evidence_of_int8_follows_float32():
    int8, float32 = (Classifier.load(name) for name in MODEL_NAMES)
    for path in SAMPLES.glob("*.png"):
        pixels = read_image(path)
        maps = [c.predict(pixels).evidence.ravel() for c in (int8, float32)]
        assert np.corrcoef(*maps)[0, 1] > 0.9


def test_evidence_lies_where_the_film_matters():
    """Blurring a part of the film moves the logit where the map says so: the map is not displaced."""
    classifier = Classifier.load("float32")
    side = classifier.card.input_size
    grid = np.arange(side // 32)
    centers = {"evidence": [], "occlusion": []}
    for path in SAMPLES.glob("*.png"):
        film = preprocess(read_image(path), side)[..., 0]
        prediction = classifier.predict(film)
        blurred = cv2.GaussianBlur(film, (0, 0), 16)
        moved = np.zeros((len(grid), len(grid)))
        for row in grid:
            for column in grid:
                part = (slice(32 * row, 32 * row + 32), slice(32 * column, 32 * column + 32))
                occluded = film.copy()
                occluded[part] = blurred[part]
                moved[row, column] = abs(classifier.predict(occluded).logit - prediction.logit)
        for name, weights in (("evidence", np.abs(prediction.evidence)), ("occlusion", moved)):
            total = weights.sum()
            centers[name].append([weights.sum(1) @ grid / total, weights.sum(0) @ grid / total])
    distance = np.mean(centers["evidence"], axis=0) - np.mean(centers["occlusion"], axis=0)
    assert np.abs(distance).max() < 0.6  # cells


def test_threads_share_a_classifier(classifier):
    films = [read_image(path) for path in sorted(SAMPLES.glob("*.png"))] * 8
    alone = [classifier.predict(film).logit for film in films]
    with ThreadPoolExecutor(8) as pool:
        together = [prediction.logit for prediction in pool.map(classifier.predict, films)]
    assert together == alone


def test_models_are_small():
    sizes = {name: Classifier.load(name).card.size_bytes for name in MODEL_NAMES}
    assert sizes["int8"] <= 5_000_000
    assert sizes["int8"] < 0.33 * sizes["float32"]


def test_cards_belong_to_the_contract(classifier):
    card = classifier.card
    assert card.labels == ("NORMAL", "PNEUMONIA")
    assert card.temperature > 0
    assert 0 < card.threshold < 1
    assert (MODELS_DIR / f"{card.name}.tflite").stat().st_size == card.size_bytes
    for split in ("validation", "stress", "test"):
        for name in METRICS:
            metric = card.metrics[split][name]
            assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
    assert card.metrics["test"]["films"] == 624
    assert card.uncertain[0] <= card.threshold <= card.uncertain[1]


def test_loads_a_file_with_its_card(model_copy, film):
    shipped = Classifier.load("int8")
    assert Classifier.load(model_copy).predict(film).logit == shipped.predict(film).logit


def edit_card(model: Path, **changes) -> None:
    path = model.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: m.write_bytes(m.read_bytes()[:-1] + b"x"), "sha256"),
        (lambda m: m.write_bytes(b""), "sha256"),
        (lambda m: edit_card(m, sha256="0" * 64), "sha256"),
        (lambda m: edit_card(m, input_size=320), "tensors"),
        (lambda m: edit_card(m, surprise=1), "surprise"),
        (lambda m: edit_card(m, temperature=0), "temperature is 0; accepted is above 0"),
        (lambda m: edit_card(m, threshold="0.5"), "threshold is '0.5'"),
        (lambda m: edit_card(m, uncertain=[0.6, 0.4]), "accepted is two probabilities"),
        (lambda m: edit_card(m, uncertain=0.5), "accepted is two probabilities"),
        (lambda m: edit_card(m, cause={"temperature": 0, "offset": 1}), "cause is"),
        (lambda m: edit_card(m, cause={"offset": 1}), "cause is"),
        (lambda m: edit_card(m, labels=["NORMAL"]), "accepted is two strings"),
        (lambda m: edit_card(m, labels=None), "labels is None"),
        (lambda m: edit_card(m, input_size="160"), "accepted is a multiple of 32"),
        (lambda m: edit_card(m, sha256=None), "sha256 is None"),
        (lambda m: m.with_suffix(".json").write_text("{"), "no JSON"),
        (lambda m: m.with_suffix(".json").write_text("[]"), "list"),
        (lambda m: m.with_suffix(".json").unlink(), "without a readable card"),
        (lambda m: m.unlink(), "cannot be read"),
    ],
)
def test_refuses_a_damaged_model(model_copy, damage, message):
    damage(model_copy)
    with pytest.raises(InvalidModelError, match=message):
        Classifier.load(model_copy)


def test_refuses_what_litert_cannot_run():
    card = dataclasses.replace(Classifier.load("int8").card, name="noise")
    with pytest.raises(InvalidModelError, match="LiteRT cannot run"):
        Classifier(b"TFL3 this is no model" * 100, card, num_threads=1)


def test_refuses_unknown_names_and_thread_counts():
    with pytest.raises(InvalidModelError, match="int8, float32"):
        Classifier.load("int4")
    with pytest.raises(ValueError, match="num_threads 0"):
        Classifier.load("int8", num_threads=0)


def test_latency_is_measured_for_each_model_and_stage(film):
    classifiers = [Classifier.load(name, num_threads=2) for name in MODEL_NAMES]
    results = measure_latency(classifiers, film, repeats=5, warmup=1)
    assert len(results) == 2
    for latency in results:
        assert latency.num_threads == 2
        assert set(latency.samples_ms) == {"preprocess", "inference", "screening"}
        assert latency.samples_ms["inference"].shape == (5,)
        assert 0 < latency.median_ms("inference") <= latency.p95_ms("inference")
