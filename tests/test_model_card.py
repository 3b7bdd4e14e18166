"""The cards of the shipped models, and cards and models that are refused."""

import json
from pathlib import Path

import pytest

from cxr import Classifier, InvalidModelError, ModelCard
from cxr.classifier import MODEL_NAMES
from cxr.model_file import MODELS_DIR
from tests.conftest import edit_card

METRICS = (
    "auroc", "accuracy", "sensitivity", "specificity", "precision", "f1", "brier", "ece",
    "balanced_brier", "balanced_ece", "coverage", "selective_accuracy",
)  # fmt: skip


@pytest.fixture(scope="module", params=MODEL_NAMES)
def classifier(request) -> Classifier:
    return Classifier.load(request.param)


def test_cards_belong_to_the_contract(classifier):
    card = classifier.card
    assert card.labels == ("NORMAL", "PNEUMONIA")
    assert card.temperature > 0
    assert 0 < card.threshold < 1
    assert (MODELS_DIR / f"{card.name}.tflite").stat().st_size == card.size_bytes
    for split in ("validation", "corrupted", "test"):
        for name in METRICS:
            metric = card.metrics[split][name]
            assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
    assert card.metrics["test"]["films"] == 624
    assert card.uncertain[0] <= card.threshold <= card.uncertain[1]


def edit_within(model: Path, *keys_and_value) -> None:
    """Set a nested value of the card."""
    *keys, last, value = keys_and_value
    path = model.with_suffix(".json")
    card = place = json.loads(path.read_text())
    for key in keys:
        place = place[key]
    place[last] = value
    path.write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: m.write_bytes(m.read_bytes()[:-1] + b"x"), "sha256"),
        (lambda m: m.write_bytes(b""), "sha256"),
        (lambda m: edit_card(m, sha256="0" * 64), "sha256"),
        (lambda m: edit_card(m, input_size=320), "tensors"),
        (lambda m: edit_card(m, surprise=1), "surprise"),
        (lambda m: edit_card(m, temperature=0), "temperature is 0; accepted is a number > 0.0"),
        (lambda m: edit_card(m, threshold="0.5"), "threshold is '0.5'; accepted is a number"),
        (lambda m: edit_card(m, offset=True), "offset is True; accepted is a number"),
        (lambda m: edit_card(m, uncertain=[0.6, 0.4]), "accepted is two probabilities, the lower first"),
        (lambda m: edit_card(m, uncertain=0.5), "uncertain is 0.5; accepted is a list"),
        (lambda m: edit_card(m, uncertain=[0.4, 1.5]), "uncertain.1. is 1.5; accepted is a number <= 1"),
        (lambda m: edit_card(m, cause={"temperature": 0, "offset": 1}), "cause.temperature is 0; accep"),
        (lambda m: edit_card(m, cause={"offset": 1}), "cause has no temperature"),
        (lambda m: edit_card(m, cause=1), "cause is 1; accepted is an object or null"),
        (lambda m: edit_card(m, labels=["NORMAL"]), "accepted is a list of length 2"),
        (lambda m: edit_card(m, labels=None), "labels is None; accepted is a list"),
        (lambda m: edit_card(m, input_size="160"), "input_size is '160'; accepted is a whole number"),
        (lambda m: edit_card(m, input_size=100), "input_size is 100; accepted .* multiple of 32"),
        (lambda m: edit_card(m, name=7), "name is 7; accepted is a string"),
        (lambda m: edit_card(m, variant="int4"), "variant is 'int4'; accepted is .*int8.float32"),
        (lambda m: edit_card(m, version="one"), "version is 'one'"),
        (lambda m: edit_card(m, sha256=None), "sha256 is None; accepted is a string"),
        (lambda m: edit_card(m, sha256="abc"), "sha256 is 'abc'; accepted is .*64"),
        (lambda m: edit_card(m, size_bytes=-1), "size_bytes is -1; accepted is a whole number >= 0"),
        (lambda m: edit_card(m, size_bytes=1.5), "size_bytes is 1.5; accepted is a whole number"),
        (lambda m: edit_card(m, provenance=[]), r"provenance is \[\]; accepted is an object"),
        (lambda m: edit_card(m, metrics=None), "metrics is None; accepted is an object"),
        (lambda m: edit_card(m, metrics={}), "metrics has no validation"),
        (lambda m: edit_within(m, "metrics", "test", None), "metrics.test is None"),
        (
            lambda m: edit_within(m, "metrics", "test", "films", 1.5),
            "metrics.test.films is 1.5; accepted",
        ),
        (lambda m: edit_within(m, "metrics", "test", "auroc", 1), "metrics.test.auroc is 1; accepted"),
        (
            lambda m: edit_within(m, "metrics", "test", "auroc", "low", "0"),
            "auroc.low is '0'; accepted is",
        ),
        (
            lambda m: edit_within(m, "metrics", "test", "ece", "high", 2),
            "ece.high is 2; accepted is a num",
        ),
        (
            lambda m: edit_within(m, "metrics", "test", "auroc", "low", 0.999),
            "a value between low and hig",
        ),
        (lambda m: edit_within(m, "provenance", "external", 5), "accepted is a string in provenance"),
        (lambda m: edit_within(m, "operating_points", "test", "threshold", [0.5]), "lists of one length"),
        (
            lambda m: edit_within(m, "operating_points", "test", "threshold", ["a"]),
            r"threshold.0. is 'a'",
        ),
        (lambda m: edit_within(m, "operating_points", "test", 3), "operating_points.test is 3; accepted"),
        (lambda m: edit_card(m, lung_tests={}), "lung_tests has no validation"),
        (
            lambda m: edit_within(m, "lung_tests", "test", "transplanted", 1),
            "transplanted is 1; accepted",
        ),
        (lambda m: edit_card(m, lungs_sha256="abc"), "lungs_sha256 is 'abc'; accepted is .*64"),
        (lambda m: edit_within(m, "novelty", "usual", "1"), "novelty.usual is '1'; accepted is a number"),
        (
            lambda m: edit_within(m, "novelty", "mean", [1.0]),
            "novelty.mean is .1.0.; accepted is a string",
        ),
        (lambda m: edit_card(m, offset=float("nan")), "no JSON"),
        (lambda m: edit_within(m, "metrics", "test", "auroc", "high", float("inf")), "no JSON"),
        (lambda m: m.with_suffix(".json").write_text('{"offset": 1e999}'), "no JSON"),
        (lambda m: m.with_suffix(".json").write_text("[" * 100_000), "no JSON"),
        (lambda m: m.with_suffix(".json").write_bytes(b"\xff\xfe"), "no JSON"),
        (lambda m: m.with_suffix(".json").write_text("{"), "no JSON"),
        (lambda m: m.with_suffix(".json").write_text("[]"), "list"),
        (lambda m: m.with_suffix(".json").unlink(), "without a readable card"),
        (lambda m: m.unlink(), "cannot be read"),
    ],
)
def test_refuses_a_damaged_model(model_copy, damage, message):
    damage(model_copy)
    with pytest.raises(InvalidModelError, match=message) as raised:
        Classifier.load(model_copy)
    assert len(str(raised.value)) < 1000
    assert "`" not in str(raised.value)


def test_a_card_survives_being_saved(classifier, tmp_path):
    classifier.card.save(tmp_path / "card.json")
    assert ModelCard.load(tmp_path / "card.json") == classifier.card
    shipped = (MODELS_DIR / f"{classifier.card.name}.json").read_text()
    assert (tmp_path / "card.json").read_text() == shipped
