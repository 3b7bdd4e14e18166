"""Commands, their output and their exit codes."""

import csv
import io
import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import cxr
import cxr.rows
from cxr import cli
from cxr.classifier import Classifier, find_model
from cxr.cli import main
from cxr.rows import COLUMNS
from tests.conftest import ROOT, SAMPLES, make_color_film


def test_json_is_one_object_a_line_and_nothing_else(folder, capfd):
    assert main(["predict", str(folder), "--format", "json"]) == 1
    out, _ = capfd.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [tuple(row) for row in rows] == [COLUMNS] * 3
    normal, pneumonia, broken = rows[0], rows[2], rows[1]
    assert normal["path"] == str(folder / "a.png")
    assert (normal["label"], pneumonia["label"]) == ("NORMAL", "PNEUMONIA")
    assert normal["probability"] < normal["threshold"] <= pneumonia["probability"]
    assert normal["latency_ms"] > 0
    x0, y0, x1, y1 = normal["lung_box"]
    assert 0 <= x0 < 0.3
    assert 0.7 < x1 <= 1
    assert 0 <= y0 < 0.3
    assert 0.7 < y1 <= 1
    assert {normal["uncertain"], pneumonia["uncertain"]} <= {True, False}
    assert normal["viral_probability"] is None
    assert normal["novelty"] > 0
    assert normal["screening"] in ("typical", "unfamiliar", "refused")
    assert normal["inverted"] is False
    assert normal["error"] is None
    assert "damaged" in broken["error"]
    assert all(broken[c] is None for c in COLUMNS if c not in ("path", "error"))


def test_jobs_change_neither_rows_nor_their_order(tmp_path, capfd):
    for i in range(9):  # the first is the slowest to decode
        sample = Image.open(SAMPLES / f"{('normal', 'pneumonia')[i % 2]}_1.png")
        sample.resize((1600 if i == 0 else 200 + i,) * 2).save(tmp_path / f"{i}.png")
    printed = []
    for jobs in ("1", "4"):
        assert main(["predict", str(tmp_path), "--format", "json", "--jobs", jobs]) == 0
        rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        printed.append([row | {"latency_ms": None} for row in rows])
    assert printed[0] == printed[1]
    assert [row["label"] for row in printed[0]] == ["NORMAL", "PNEUMONIA"] * 4 + ["NORMAL"]


def test_few_films_are_under_way_at_once(tmp_path, monkeypatch, capfd):
    for i in range(30):
        (tmp_path / f"{i:02}.png").write_bytes(b"no film")
    begun, seen = [], []
    score = cli.score_film
    monkeypatch.setattr(cli, "score_film", lambda *args: begun.append(1) or score(*args))
    write = cli._write_rows
    monkeypatch.setattr(
        cli, "_write_rows", lambda rows, style: write((seen.append(len(begun)) or r for r in rows), style)
    )
    assert main(["predict", str(tmp_path), "--format", "csv", "--jobs", "2"]) == 1
    assert len(seen) == 30
    assert all(ahead - done <= 4 for done, ahead in enumerate(seen))


def test_csv(folder, capfd):
    assert main(["predict", str(folder / "a.png"), "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capfd.readouterr().out))
    assert row["label"] == "NORMAL"
    assert row["error"] == ""


def test_csv_has_no_formula(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "=1+1;=2.png").write_bytes((SAMPLES / "normal_1.png").read_bytes())
    assert main(["predict", "=1+1;=2.png", "--format", "csv"]) == 0
    out = capfd.readouterr().out
    (row,) = csv.DictReader(io.StringIO(out))
    assert tuple(row) == COLUMNS
    assert row["path"] == "'=1+1;'=2.png"
    assert not any(
        cell.startswith("=") for cell in next(csv.reader([out.splitlines()[1]], delimiter=";"))
    )


def test_table_escapes_what_a_terminal_obeys(tmp_path, capfd):
    for name in ("a\x1b[2J\u202e.png", "b\nNORMAL.png"):
        (tmp_path / name).write_bytes((SAMPLES / "normal_1.png").read_bytes())
    (tmp_path / "c\x9b.png").write_bytes(b"no film")
    assert main(["predict", str(tmp_path)]) == 1
    _, *lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert "a\\x1b[2J\\u202e.png" in lines[0]


def test_one_film_that_contradicts_itself_does_not_stop_the_others(folder, capfd):
    (folder / "b.dcm").write_bytes(make_color_film())
    assert main(["predict", str(folder), "--format", "json"]) == 1
    out, err = capfd.readouterr()
    rows = {json.loads(line)["path"]: json.loads(line) for line in out.splitlines()}
    assert len(rows) == 4
    assert rows[str(folder / "a.png")]["label"] == "NORMAL"
    failed = rows[str(folder / "b.dcm")]
    assert failed["label"] is None
    assert failed["error"].startswith("Received ")
    assert "Doe" not in out + err
    assert "Traceback" not in err


@pytest.mark.parametrize(("owner", "name"), [(cxr.rows, "read_film"), (Classifier, "predict")])
@pytest.mark.parametrize("kind", [ValueError, MemoryError, RecursionError])
def test_whatever_a_film_raises_is_its_row_and_logged_by_its_type(
    folder, capfd, monkeypatch, caplog, owner, name, kind
):
    def fail(*_):
        raise kind("Doe^Jane")

    monkeypatch.setattr(owner, name, fail)
    assert main(["predict", str(folder / "a.png"), "--format", "json"]) == 1
    out, err = capfd.readouterr()
    row = json.loads(out)
    assert tuple(row) == COLUMNS
    assert row["label"] is None
    assert kind.__name__ in row["error"]
    (record,) = [record for record in caplog.records if record.name == "cxr"]
    assert record.levelno == logging.ERROR
    assert kind.__name__ in record.getMessage()
    assert record.exc_info is None
    assert "Doe" not in out + err + caplog.text


def test_table_has_a_line_a_film(folder, capfd):
    assert main(["predict", str(folder / "a.png"), str(folder / "notes.txt")]) == 1
    header, good, bad = capfd.readouterr().out.splitlines()
    assert header.split() == ["label", "probability", "screening", "ms", "path"]
    assert good.split()[0] == "NORMAL"
    assert bad.startswith("failed")
    assert "notes.txt" in bad


@pytest.mark.parametrize("step", [-4e-4, -1e-9, 0, 1e-9, 4e-4])
def test_a_probability_never_contradicts_its_label(folder, tmp_path_factory, capfd, step):
    """With a threshold just below, at and just above the probability."""
    probability = Classifier.load("int8").predict(cxr.read_image(folder / "a.png")).probability
    model = tmp_path_factory.mktemp("model") / "near.tflite"
    shutil.copy(find_model("int8"), model)
    card = json.loads(find_model("int8").with_suffix(".json").read_text())
    card["threshold"] = probability + step
    model.with_suffix(".json").write_text(json.dumps(card))
    command = ["predict", str(folder / "a.png"), "--model", str(model)]
    assert main([*command, "--format", "json"]) == 0
    row = json.loads(capfd.readouterr().out)
    assert (row["label"] == "PNEUMONIA") == (step <= 0)
    assert (row["probability"] >= row["threshold"]) == (step <= 0)
    assert main(command) == 0
    label, shown, *_ = capfd.readouterr().out.splitlines()[1].split()
    assert (label == "PNEUMONIA") == (step <= 0)
    digits = len(shown.partition(".")[2])
    assert digits >= 3
    assert (float(shown) >= round(row["threshold"], digits)) == (step <= 0)


def test_progress_goes_to_stderr_for_more_than_a_few_files(folder, capfd):
    main(["predict", *[str(folder / "a.png")] * 6, "--format", "json"])
    out, err = capfd.readouterr()
    assert "6/6" in err
    assert len([json.loads(line) for line in out.splitlines()]) == 6
    main(["predict", str(folder / "a.png"), "--format", "json"])
    assert "1/1" not in capfd.readouterr().err


def test_models_can_be_chosen(folder, capfd):
    film = str(folder / "a.png")
    for model in ("int8", "float32", str(ROOT / "models" / "pneumonia_int8.tflite")):
        assert main(["predict", film, "--model", model, "--format", "json"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert rows[0]["probability"] == rows[2]["probability"]
    assert rows[0]["probability"] == pytest.approx(rows[1]["probability"], abs=0.2)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["predict"],
        ["predict", "x.png", "--format", "xml"],
        ["predict", "x.png", "--model", "int4"],
        ["predict", "x.png", "--model", "missing.tflite"],
        ["predict", "x.png", "--threads", "0"],
        ["predict", "x.png", "--jobs", "abc"],
        ["guess", "x.png"],
    ],
)
def test_wrong_usage_exits_with_2(argv, capfd):
    try:
        status = main(argv)
    except SystemExit as error:  # argparse
        status = error.code
    out, err = capfd.readouterr()
    assert status == 2
    assert out == ""
    assert err


def test_info_prints_the_card(capfd):
    assert main(["info"]) == 0
    out = capfd.readouterr().out
    for word in (
        "Not for medical use",
        "sha256",
        "threshold",
        "uncertain",
        "test (624 films, 390 with pneumonia)",
        "auroc",
    ):
        assert word in out


def test_benchmark_prints_both_models(capfd):
    assert main(["benchmark", "--repeats", "3"]) == 0
    out = capfd.readouterr().out
    assert "int8" in out
    assert "float32" in out
    assert "p95" in out


@pytest.mark.parametrize("command", ["predict --format json", "predict --format csv", "info"])
def test_module_survives_a_closed_pipe(folder, command):
    name, *options = command.split()
    films = [str(folder / "a.png")] * 300 if name == "predict" else []
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-m", "cxr", name, *films, *options],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        process.stdout.close()
        errors = process.stderr.read()
    assert "Traceback" not in errors
    assert "BrokenPipeError" not in errors
    assert process.returncode == 1


def test_official_test_split_through_the_command_line(real_data):
    """The figure of the shipped model, as a user gets it."""
    command = [sys.executable, "-m", "cxr", "predict", str(real_data / "test"), "--format", "json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == 624
    truth = np.array(["/PNEUMONIA/" in row["path"] for row in rows])
    assert roc_auc_score(truth, [row["probability"] for row in rows]) >= 0.970
    assert np.mean([(row["label"] == "PNEUMONIA") for row in rows] == truth) >= 0.900
