"""``python -m training.evaluate model`` on the shipped models."""

import re

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from cxr import Classifier, read_image
from tests.conftest import read_table, run_module
from training.metrics import compute_metrics
from training.names import list_labelled, parse_path


def test_a_folder_without_films_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no film"):
        list_labelled(tmp_path, "val")
    failed = run_module("training.evaluate", "model", "--data", tmp_path)
    assert failed.returncode == 1
    assert "holds no film" in failed.stderr


def test_a_model_is_measured_on_any_labelled_folder(labelled):
    result = run_module("training.evaluate", "model", "--data", labelled, "--plots", labelled / "plots")
    assert result.returncode == 0, result.stderr[-2000:]
    classifier = Classifier.load("int8")
    card, films = classifier.card, list_labelled(labelled, "val")
    labels = np.array([label for _, label, _ in films])
    predictions = [classifier.predict(read_image(path)) for path, _, _ in films]
    calibrated = np.array([p.probability for p in predictions])
    raw = 1 / (1 + np.exp(-np.array([p.logit for p in predictions])))
    after, before = (
        compute_metrics(labels, p, card.threshold, card.uncertain) for p in (calibrated, raw)
    )
    printed = dict(re.findall(r"^(\w+) +(\d\.\d{4})  \(95 %", result.stdout, re.MULTILINE))
    assert {name: float(value) for name, value in printed.items()} == pytest.approx(after, abs=1e-4)
    uncalibrated = re.findall(r"\d\.\d{4}", result.stdout.split("before calibration")[1])
    names = ("brier", "ece", "balanced_brier", "balanced_ece")
    assert [float(v) for v in uncalibrated] == pytest.approx([before[n] for n in names], abs=1e-4)
    assert (labelled / "plots" / "reliability_val.png").stat().st_size > 1000


def test_series_and_cause_are_given_where_file_names_have_them(tiny_data):
    result = run_module("training.evaluate", "model", "--data", tiny_data, "--split", "train")
    assert result.returncode == 0, result.stderr[-2000:]
    classifier = Classifier.load("int8")
    expected, causes = {}, {"bacteria": [], "virus": []}
    for path, label, _ in list_labelled(tiny_data, "train"):
        series = parse_path(path.as_posix()).series
        prediction = classifier.predict(read_image(path))
        expected.setdefault(series, []).append(prediction.label == classifier.card.labels[label])
        if label:
            causes[series].append(prediction.viral_logit)
    rows = read_table(result.stdout)
    assert {row["series"]: (int(row["films"]), float(row["right"])) for row in rows} == {
        name: (len(flags), pytest.approx(np.mean(flags), abs=1e-3)) for name, flags in expected.items()
    }
    above = np.subtract.outer(causes["virus"], causes["bacteria"]) > 0
    auroc = re.search(r"virus against bacteria: AUROC (\S+)", result.stdout)[1]
    assert float(auroc) == pytest.approx(above.mean(), abs=1e-4)
