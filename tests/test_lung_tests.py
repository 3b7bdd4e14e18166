"""What a score follows: models that read the lungs or the frame, and the shipped ones on the data."""

import dataclasses
import types

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from cxr import Classifier
from export.validate import MAX_ERASED_AUROC, Report, ShortcutError, check_lungs
from tests.conftest import draw_film, draw_lungs, run_module
from training.lung_tests import format_lungs, measure_lungs
from training.masks import load_masked
from training.sources import LabelledImages

MASK = np.logical_or(*draw_lungs())


class Reader:
    """A model that scores the darkness of a part of the image: the darker, the healthier."""

    def __init__(self, part: np.ndarray) -> None:
        self.part = part

    def predict(self, pixels, lungs=None):
        logit = float(pixels[self.part].mean()) - 85.0
        label = "PNEUMONIA" if logit > 0 else "NORMAL"
        return types.SimpleNamespace(
            logit=logit, label=label, evidence=logit * self.part.astype(np.float32), lungs=lungs
        )


@pytest.fixture(scope="module")
def films() -> LabelledImages:
    """Cartoons whose outermost rows tell the class as well: dark in NORMAL, bright in PNEUMONIA."""
    layers, labels, paths = [], [], []
    for label in (0, 1):
        for seed in range(12):
            image = draw_film(seed, bool(label))
            image[:8] = 150 * label
            layers.append(np.stack([image, 255 * MASK], axis=-1).astype(np.uint8))
            labels.append(float(label))
            name = f"person{seed}_virus_1.jpeg" if label else f"IM-{seed:04d}-0001.jpeg"
            paths.append(f"train/{('NORMAL', 'PNEUMONIA')[label]}/{name}")
    return LabelledImages(np.stack(layers), np.array(labels), paths)


def test_a_model_that_reads_lungs_is_undecided_without_them_and_follows_them(films):
    figures = measure_lungs(Reader(MASK), films, films)
    assert figures["films"] == 24
    for name in ("background_gray", "background_blurred", "background_noisy", "transplanted"):
        assert figures[name]["auroc"]["value"] == 1.0
        assert figures[name]["changed"]["value"] == 0.0
    assert figures["lungs_gray"]["accuracy"]["value"] == 0.5
    assert figures["evidence_inside"]["value"] > 0.95
    assert figures["hottest_inside"]["value"] == 1.0
    assert figures["mask_auroc"]["value"] == 0.5  # all masks are the same
    text = format_lungs(figures)
    assert "| transplanted " in text
    assert "1.000 (0.8" in text  # with an interval


def test_a_model_that_reads_the_frame_is_found_out(films):
    frame = np.zeros_like(MASK)
    frame[:8] = True
    figures = measure_lungs(Reader(frame), films, films)
    for name in ("lungs_gray", "lungs_blurred"):
        assert figures[name]["auroc"]["value"] == 1.0
        assert figures[name]["changed"]["value"] == 0.0
    assert figures["transplanted"]["auroc"]["value"] == 0.0
    assert figures["evidence_inside"]["value"] < 0.05
    assert figures["hottest_inside"]["value"] == 0.0


@pytest.mark.parametrize(
    ("gray", "blurred", "transplanted", "is_accepted"),
    [
        (0.5, 0.65, 0.95, True),
        (0.66, 0.5, 0.99, False),
        (0.5, 0.66, 0.99, False),
        (0.5, 0.5, 0.94, False),
    ],
)
def test_the_export_refuses_a_model_that_does_not_need_lungs(gray, blurred, transplanted, is_accepted):
    card = Classifier.load("int8").card
    values = {"lungs_gray": gray, "lungs_blurred": blurred, "transplanted": transplanted}
    tests = {name: {"auroc": {"value": value}} for name, value in values.items()}
    card = dataclasses.replace(card, lung_tests={"validation": tests})
    report = Report(b"", card, np.zeros(1), np.zeros(1))
    if is_accepted:
        check_lungs(report)
    else:
        with pytest.raises(ShortcutError, match=f"of {transplanted:.3f} with lungs in another frame"):
            check_lungs(report)


@pytest.mark.parametrize("name", ["int8", "float32"])
def test_the_shipped_cards_pass_the_gate_and_reach_the_goals(name):
    card = Classifier.load(name).card
    check_lungs(Report(b"", card, np.zeros(1), np.zeros(1)))
    tests = card.lung_tests["test"]
    assert tests["lungs_gray"]["auroc"]["value"] <= 0.60
    assert tests["lungs_blurred"]["auroc"]["value"] <= MAX_ERASED_AUROC  # the goal of .60 is missed
    assert tests["background_gray"]["changed"]["value"] <= 0.04
    assert tests["background_noisy"]["changed"]["value"] <= 0.05
    assert tests["background_gray"]["auroc"]["value"] >= 0.98
    assert tests["transplanted"]["auroc"]["value"] >= 0.97
    assert tests["evidence_inside"]["value"] >= 0.90
    assert tests["hottest_inside"]["value"] >= 0.97


def test_the_card_repeats_on_the_real_data(real_data, monkeypatch):
    """On a quarter of the validation patients."""
    monkeypatch.setattr("training.metrics.BOOTSTRAP_RESAMPLES", 20)
    classifier = Classifier.load("int8")
    films, train = (load_masked(real_data, "", split, 224) for split in ("val", "train"))
    films = films.select(np.arange(len(films.paths)) % 4 == 0)
    figures = measure_lungs(classifier, films, train.select(np.arange(len(train.paths)) % 4 == 0))
    expected = classifier.card.lung_tests["validation"]
    for part in ("background_gray", "transplanted"):
        assert figures[part]["auroc"]["value"] == pytest.approx(
            expected[part]["auroc"]["value"], abs=0.03
        )
    for part in ("lungs_gray", "lungs_blurred"):
        assert figures[part]["auroc"]["value"] < 0.75
    for part in ("evidence_inside", "hottest_inside"):
        assert figures[part]["value"] == pytest.approx(expected[part]["value"], abs=0.04)


def test_one_command_measures_a_shipped_model(tiny_data):
    result = run_module("training.evaluate", "lungs", "--data", tiny_data, "--split", "test")
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.startswith("pneumonia_int8 on 12 films of test")
    assert "AUROC of the mask alone" in result.stdout
    missing = run_module(
        "training.evaluate", "lungs", "--data", tiny_data, "--masks", tiny_data / "nowhere"
    )
    assert missing.returncode == 1
    assert "training.dataset lungs" in missing.stderr
