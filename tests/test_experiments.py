"""The experiments on the shipped models: explanation, resolution and shortcuts."""

import json
import re

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr

import training  # noqa: F401  before tensorflow
from cxr import Classifier, LungFinder, preprocess, read_image
from experiments.explanation import DELETION_STEPS, deletion_curve
from experiments.finder import crop, rotate
from experiments.resolution import evaluate_resolution
from experiments.shortcuts import FILM_PX, sharpness
from experiments.whole_frame import WholeFrameModel, evaluate
from tests.conftest import SAMPLES, read_table, run_module
from training.alterations import alter_lungs, fill_gray
from training.lungs import dice
from training.masks import load_masked
from training.names import LABELS, list_labelled

tf = pytest.importorskip("tensorflow")


def test_evidence_is_tested_by_one_command(labelled):
    result = run_module("experiments.explanation", "--data", labelled)
    assert result.returncode == 0, result.stderr[-2000:]
    assert float(re.search(r"completeness.* within (\S+) log-odds", result.stdout)[1]) < 1e-4
    rows, orders = result.stdout.split("deletion and insertion on 2 films with pneumonia that were found")
    rows = read_table(rows)
    assert [row["row of cells"] for row in rows] == ["highest", "2", "3", "4", "lowest"]
    weights = [float(row["weight"].removesuffix(" %")) for row in rows]
    assert sum(weights) == pytest.approx(100, abs=3)
    for row in rows[1:4]:
        assert float(row["NORMAL"]) < float(row["PNEUMONIA"])
    areas = {
        name: [float(re.fullmatch(r"(\S+) \(\S+\)", cell)[1]) for cell in cells]
        for name, *cells in (row.values() for row in read_table(orders))
    }
    assert set(areas) == {
        "evidence", "lungs, centre first", "lungs, random places", "film, random places"
    }  # fmt: skip
    classifier = Classifier.load("int8")
    films = [preprocess(read_image(labelled / "PNEUMONIA" / f"PNEUMONIA{i}_0.png"), 224) for i in (1, 2)]
    for column, insert in enumerate((False, True)):
        curves = []
        for film in films:
            p = classifier.predict(film[..., 0])
            curves.append(deletion_curve(classifier, film[..., 0], p.lungs, p.evidence, insert))
        assert areas["evidence"][column] == pytest.approx(np.mean(curves), abs=1e-3)


def test_large_films_keep_their_label(labelled):
    result = run_module("experiments.resolution", "--data", labelled)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "2400 x 2000 px: 100.0% keep their label" in result.stdout


def test_large_films_score_like_their_small_copies(real_data, monkeypatch):
    monkeypatch.setattr("experiments.resolution.RESOLUTION_FILMS", 50)
    text = evaluate_resolution("int8", real_data, "val")
    assert float(re.search(r"([\d.]+)% keep their label", text)[1]) >= 98.0


def test_deletion_starts_from_the_film_and_insertion_ends_there():
    classifier = Classifier.load("int8")
    film = preprocess(read_image(SAMPLES / "pneumonia_1.png"), 160)[..., 0]
    prediction = classifier.predict(film)
    lungs, evidence = prediction.lungs, prediction.evidence
    deleted, inserted = (deletion_curve(classifier, film, lungs, evidence, i) for i in (False, True))
    assert len(deleted) == len(inserted) == DELETION_STEPS + 1
    assert deleted[0] == inserted[-1] == prediction.probability
    assert deleted[-1] == inserted[0]


def test_the_finder_of_lungs_is_measured_on_altered_films(tiny_data):
    result = run_module("experiments.finder", "--data", tiny_data)
    assert result.returncode == 0, result.stderr[-2000:]
    rows = read_table(result.stdout)
    assert rows[0]["val, 12 films"] == "as they are"
    assert len(rows) == 7
    finder = LungFinder.load()
    films = load_masked(tiny_data, "", "val", 224)
    found = np.stack([finder.find(255 - layers[..., 0]).mask for layers in films.images])
    (inverted,) = (row for row in rows if row["val, 12 films"] == "inverted")
    expected = dice(found, films.images[..., 1:]).mean()
    assert float(inverted["Dice"].split()[0]) == pytest.approx(expected, abs=1e-3)
    turned = rotate(films.images[0], 20.0)
    assert np.abs(turned[..., 1].astype(int) - films.images[0][..., 1]).mean() > 10
    assert crop(films.images[0], 0.8).shape == (180, 180, 2)


def test_a_model_of_the_whole_frame_is_measured_in_the_same_way(tiny_data, tmp_path):
    """One that takes the brightness of each cell for evidence."""

    class Brightness(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 32, 32, 1), tf.uint8, name="image")])
        def serve(self, image):
            cells = tf.nn.avg_pool2d(tf.cast(image, tf.float32) / 25.0 - 5.0, 8, 8, "VALID")
            return {"evidence": cells, "logit": tf.reduce_mean(cells, (1, 2))}

    model = Brightness()
    tf.saved_model.save(model, str(tmp_path / "saved"), signatures={"serving_default": model.serve})
    converted = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert()
    (tmp_path / "old.tflite").write_bytes(converted)
    card = {"input_size": 32, "temperature": 1.0, "offset": 0.0, "threshold": 0.5, "labels": LABELS}
    (tmp_path / "old.json").write_text(json.dumps(card))
    text = evaluate(tmp_path / "old.tflite", tiny_data, "val")
    assert text.startswith("old.tflite on 12 films of val")
    rows = {row["films"]: row for row in read_table(text)}
    assert set(rows) >= {"lungs gray", "background noisy", "transplanted"}
    model = WholeFrameModel(tmp_path / "old.tflite")
    films = load_masked(tiny_data, "", "val", 224)
    logits = [model.predict(alter_lungs(x[..., 0], x[..., 1], fill_gray)).logit for x in films.images]
    above = np.subtract.outer(*(np.array(logits)[films.labels == y] for y in (1, 0))) > 0
    assert float(rows["lungs gray"]["auroc"].split()[0]) == pytest.approx(above.mean(), abs=0.02)


def test_sharpness_grows_with_detail():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    assert sharpness(np.full((64, 64), 99, np.uint8)) == 0
    assert sharpness(noise) > 3 * sharpness(noise.repeat(2, 0).repeat(2, 1))


def test_shortcuts_are_measured_by_one_command(tiny_data):
    result = run_module("experiments.shortcuts", "--data", tiny_data, "--model", "float32")
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
