"""The commands that measure the shipped models: ``training.evaluate`` and some of ``experiments``."""

import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr

import training  # noqa: F401  before tensorflow
from cxr import Classifier, preprocess, read_image
from experiments.explanation import (
    DELETION_STEPS,
    THORAX_BOX,
    deletion_curve,
    share_in_upper_corners,
    shifted_evidence,
    thorax_share,
)
from experiments.shortcuts import FILM_PX, sharpness
from tests.conftest import ROOT, SAMPLES, read_table
from training.metrics import compute_metrics, map_correlation
from training.names import list_labelled, parse_path


@pytest.fixture
def labelled(tmp_path):
    """The samples in a folder of each label."""
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / label).mkdir()
        for i in (1, 2):
            shutil.copy(SAMPLES / f"{label.lower()}_{i}.png", tmp_path / label / f"{label}{i}_0.png")
    return tmp_path


def run(module, *argv):
    command = [sys.executable, "-m", module, *map(str, argv)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_both_layouts_are_listed(tiny_data, labelled):
    films = list_labelled(tiny_data, "val")
    assert len(films) == 12
    assert sum(label for _, label, _ in films) == 6
    assert [(label, patient) for _, label, patient in list_labelled(labelled, "val")] == [
        (0, "NORMAL1"), (0, "NORMAL2"), (1, "PNEUMONIA1"), (1, "PNEUMONIA2"),
    ]  # fmt: skip


def test_a_folder_without_films_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no film"):
        list_labelled(tmp_path, "val")
    failed = run("training.evaluate", "model", "--data", tmp_path)
    assert failed.returncode == 1
    assert "holds no film" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_model_is_measured_on_any_labelled_folder(labelled):
    result = run("training.evaluate", "model", "--data", labelled, "--plots", labelled / "plots")
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


def test_series_and_cause_are_told_where_file_names_tell_them(tiny_data):
    result = run("training.evaluate", "model", "--data", tiny_data, "--split", "train")
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


def test_evidence_is_tested_by_one_command(labelled):
    result = run("experiments.explanation", "--data", labelled)
    assert result.returncode == 0, result.stderr[-2000:]
    assert float(re.search(r"completeness.* within (\S+) log-odds", result.stdout)[1]) < 1e-4
    share = re.search(r"outside the thorax box.*?([\d.]+)%; the box leaves out ([\d.]+)%", result.stdout)
    assert 0 < float(share[1]) < 100
    top, bottom, left, right = THORAX_BOX
    assert float(share[2]) == pytest.approx(100 * (1 - (bottom - top) * (right - left)), abs=0.1)
    assert "on 2 films with pneumonia that were found" in result.stdout
    areas = {
        name: [float(re.fullmatch(r"(\S+) \(\S+\)", cell)[1]) for cell in cells]
        for name, *cells in (row.values() for row in read_table(result.stdout))
    }
    assert set(areas) == {"evidence", "evidence, four shifts", "centre first", "random cells"}
    classifier = Classifier.load("int8")
    films = [preprocess(read_image(labelled / "PNEUMONIA" / f"PNEUMONIA{i}_0.png"), 160) for i in (1, 2)]
    for column, insert in enumerate((False, True)):
        curves = [
            deletion_curve(classifier, f[..., 0], classifier.predict(f[..., 0]).evidence, insert)
            for f in films
        ]
        assert areas["evidence"][column] == pytest.approx(np.mean(curves), abs=1e-3)


def test_large_films_keep_their_label(labelled):
    result = run("experiments.resolution", "--data", labelled)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "2400 x 2000 px: 100.0% keep their label" in result.stdout


def test_large_films_score_like_their_small_copies(real_data):
    result = run("experiments.resolution", "--data", real_data)
    share = float(re.search(r"([\d.]+)% keep their label", result.stdout)[1])
    assert share >= 98.0


def test_upper_corners_are_the_two_above():
    maps = np.zeros((4, 3, 3), np.float32)
    for i, cell in enumerate([(0, 0), (0, 2), (2, 0), (1, 1)]):
        maps[i][cell] = 1.0
    assert share_in_upper_corners(maps) == 0.5


def test_thorax_share_is_by_area():
    top, bottom, left, right = THORAX_BOX
    area = (bottom - top) * (right - left)
    even, corner, middle = np.ones((5, 5)), np.zeros((5, 5)), np.zeros((5, 5))
    corner[0, 0] = middle[2, 2] = 3.0
    shares = thorax_share(np.stack([even, corner, middle]))
    assert shares == pytest.approx([area, (0.2 - top) * (0.2 - left) / 0.04, 1.0])


def test_maps_are_compared_by_rank():
    maps = np.random.default_rng(0).standard_normal((4, 5, 5))
    assert map_correlation(maps, np.exp(maps)) == pytest.approx(1.0)
    assert map_correlation(maps, -maps) == pytest.approx(-1.0)


def test_deletion_starts_from_the_film_and_insertion_ends_there():
    classifier = Classifier.load("int8")
    film = preprocess(read_image(SAMPLES / "pneumonia_1.png"), 160)[..., 0]
    prediction = classifier.predict(film)
    deleted, inserted = (deletion_curve(classifier, film, prediction.evidence, i) for i in (False, True))
    assert len(deleted) == len(inserted) == DELETION_STEPS + 1
    assert deleted[0] == inserted[-1] == prediction.probability
    assert deleted[-1] == inserted[0]


def test_shifted_evidence_is_finer_and_agrees_with_the_map():
    classifier = Classifier.load("float32")
    film = preprocess(read_image(SAMPLES / "pneumonia_1.png"), 160)[..., 0]
    fine = shifted_evidence(classifier, film)
    assert fine.shape == (10, 10)
    coarse = fine.reshape(5, 2, 5, 2).mean((1, 3))
    assert np.corrcoef(coarse.ravel(), classifier.predict(film).evidence.ravel())[0, 1] > 0.8


def test_sharpness_grows_with_detail():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    assert sharpness(np.full((64, 64), 99, np.uint8)) == 0
    assert sharpness(noise) > 3 * sharpness(noise.repeat(2, 0).repeat(2, 1))


def test_shortcuts_are_measured_by_one_command(tiny_data):
    result = run("experiments.shortcuts", "--data", tiny_data, "--models", "int8", "float32")
    assert result.returncode == 0, result.stderr[-2000:]
    rows = read_table(result.stdout)
    assert list(rows[0])[-2:] == ["float32 in NORMAL", "float32 in PNEUMONIA"]
    table = {name: [float(cell) for cell in cells] for name, *cells in (r.values() for r in rows)}
    films = list_labelled(tiny_data, "train")
    pixels = [read_image(path) for path, _, _ in films]
    sharp = np.array([
        sharpness(cv2.resize(p, (FILM_PX, FILM_PX), interpolation=cv2.INTER_AREA)) for p in pixels
    ])  # fmt: skip
    sick = np.array([label for _, label, _ in films]) == 1
    above = np.mean(np.subtract.outer(sharp[sick], sharp[~sick]) > 0)
    assert table["sharpness"][0] == pytest.approx(max(above, 1 - above), abs=1e-3)
    classifier = Classifier.load("float32")
    logits = np.array([classifier.predict(p).logit for p in pixels])
    followed = spearmanr(logits[sick], sharp[sick]).statistic
    assert table["sharpness"][-1] == pytest.approx(followed, abs=0.01)
