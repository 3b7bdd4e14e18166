"""Ray runs in its own processes here, so that its warnings and threads do not reach pytest."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image
from pyarrow import fs

import cxr.cli
from cxr.bulk.scoring import MAX_DEATHS, Scorer, digest
from cxr.bulk.stores import SCHEMA
from cxr.classifier import ModelFiles, read_files
from cxr.cli import main
from cxr.decoding import NO_PROCESS
from cxr.errors import InvalidImageError
from cxr.rows import COLUMNS
from tests.conftest import ROOT, SAMPLES, make_color_film, make_dicom, save_dicom, write_films

SITE = """  # each process of Ray imports it, as sitecustomize
import os, signal, time
from cxr.decoding import DecoderPool

decode = DecoderPool.decode

def watch(pool, data, on_wait=None):
    data = data() if callable(data) else data
    mark = data[-6:]
    with open(os.environ["CXR_JOURNAL"], "a+") as journal:
        journal.write(f"{os.getpid()} {mark.hex()}\\n")
        journal.seek(0)
        is_first = journal.read().count(mark.hex()) == 1
    if mark == b"deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if mark == b"linger" and is_first:
        time.sleep(600)
    return decode(pool, data, on_wait)

DecoderPool.decode = watch
"""


@pytest.fixture
def start(films):
    """Starts a run in its own session, in which ``finish`` looks for processes that are left."""
    (films.parent / "site").mkdir()
    (films.parent / "site" / "sitecustomize.py").write_text(SITE)
    (films.parent / "journal").touch()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {
        "PYTHONPATH": f"{films.parent / 'site'}:{ROOT}",
        "CXR_JOURNAL": str(films.parent / "journal"),
    }
    processes = []

    def start() -> subprocess.Popen:
        command = [sys.executable, "-m", "cxr", "bulk", "films", "rows", "--workers", "2"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment, start_new_session=True, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()  # if the test has failed; Ray's processes follow it


def finish(process: subprocess.Popen) -> tuple[int, str]:
    out, err = process.communicate(timeout=180)
    assert out == ""
    assert "Traceback" not in err
    end = time.monotonic() + 20
    while session_processes(process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert session_processes(process.pid) == []
    return process.returncode, err


def session_processes(session: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stat = path.read_text()
        except OSError:  # it has just ended
            continue
        state, _, _, owner = stat.rpartition(")")[2].split()[:4]
        if int(owner) == session and state != "Z":
            found.append(stat)
    return found


def read_journal() -> list[tuple[int, str]]:
    """Process and film of each decoding that was begun."""
    lines = [line.split() for line in Path("journal").read_text().splitlines()]
    return [(int(process), bytes.fromhex(mark).decode()) for process, mark in lines]


def read_rows() -> list[dict]:
    table = ds.dataset("rows").to_table()
    assert table.schema.equals(SCHEMA)
    rows = sorted(table.to_pylist(), key=lambda row: row["path"])
    assert len({row["path"] for row in rows}) == len(rows)
    return rows


def test_rows_are_those_of_predict_and_none_is_made_twice(films, start, capfd):
    write_films(films, 2)
    (films / "deep" / "er").mkdir(parents=True)
    pneumonia = np.asarray(Image.open(SAMPLES / "pneumonia_1.png").convert("L"))
    Image.fromarray(pneumonia).save(films / "deep" / "er" / "b.JPEG")
    (films / "deep" / "IM000001").write_bytes(save_dicom(make_dicom(pneumonia)))
    (films / "deep" / "LICENSE").write_text("no film " * 50)
    (films / "deep" / "broken.png").write_bytes((SAMPLES / "normal_1.png").read_bytes()[:999])
    (films / "deep" / "bad.dcm").write_bytes(make_color_film())
    (films / "notes.txt").write_text("no film")
    (films / os.fsdecode(b"\xff.png")).write_bytes((SAMPLES / "normal_1.png").read_bytes())

    assert main(["predict", "films", "--format", "json"]) == 1
    expected = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    for row in expected:
        row["path"] = row["path"].encode(errors="backslashreplace").decode()
        del row["latency_ms"]
    status, err = finish(start())
    assert status == 1
    assert "7 films" in err
    assert "2 failed" in err
    rows = read_rows()
    assert all((row.pop("latency_ms") is None) == (row["error"] is not None) for row in rows)
    assert rows == sorted(expected, key=lambda row: row["path"])

    (films / "deep" / "LICENSE").unlink()
    assert main(["bulk", "films", "rows"]) == 1  # nothing to do, so Ray is not started
    assert "7 had rows already; 2 failed" in capfd.readouterr().err
    (films / "new.png").write_bytes((SAMPLES / "normal_1.png").read_bytes())
    status, err = finish(start())
    assert status == 1
    assert "1 films" in err
    assert len(read_rows()) == 8


def test_dead_workers_lose_and_double_no_row(films, start):
    """One is killed while it scores a film, and one film kills each worker that reads it."""
    write_films(films, 24, {5: b"deadly", 16: b"linger"})
    process = start()
    while not (lingering := [worker for worker, film in read_journal() if film == "linger"]):
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(lingering[0], signal.SIGKILL)
    assert finish(process)[0] == 1
    again = {worker for worker, film in read_journal() if film == "linger"} - {*lingering}
    assert len(again) == 1  # another process scored what the killed one had in hand
    victims = {worker for worker, film in read_journal() if film == "deadly"}
    assert len(victims) == 1 + MAX_DEATHS
    rows = read_rows()
    assert [row["path"] for row in rows] == [f"films/film_{i:02}.png" for i in range(24)]
    (failed,) = [row for row in rows if row["error"]]
    assert failed["path"] == "films/film_05.png"
    assert "worker died" in failed["error"]
    assert all((row["label"] is None) == (row is failed) for row in rows)


def test_a_second_run_is_refused_and_a_killed_one_is_not_in_the_way(films, start, capfd):
    write_films(films, 12, {3: b"linger"})
    first = start()
    while "linger" not in [film for _, film in read_journal()]:
        assert first.poll() is None
        time.sleep(0.1)
    assert main(["bulk", "films", "rows"]) == 2
    err = capfd.readouterr().err
    assert "another run writes" in err
    assert err.count("\n") == 1
    first.kill()
    first.communicate()
    assert finish(start())[0] == 0
    assert len(read_rows()) == 12


@pytest.fixture(scope="module")
def model() -> ModelFiles:
    return read_files("int8")


def test_a_film_that_vanishes_gets_a_row(model, films, capfd):
    row = Scorer(model, None, str(films), attempts=None).score("gone.png")
    assert main(["predict", str(films / "gone.png"), "--format", "json"]) == 1
    assert row["error"] == json.loads(capfd.readouterr().out)["error"]
    assert row["path"] == "gone.png"


def test_a_store_is_read_as_a_folder_is(model, films):
    write_films(films, 1)
    (films / "LICENSE").write_text("no film " * 50)
    scorer = Scorer(model, fs.LocalFileSystem(), "file://", attempts=None)
    name = f"file://{films}/"
    row = scorer.score(name + "film_00.png")
    assert tuple(row) == COLUMNS
    assert (row["path"], row["label"]) == (name + "film_00.png", "NORMAL")
    assert scorer.score(name + "LICENSE") == {"path": name + "LICENSE"}
    assert "No such file" in scorer.score(name + "gone.png")["error"]


def test_whatever_is_raised_on_the_way_to_a_film_is_its_row(model, films, monkeypatch):
    def fail(*_):
        raise RuntimeError("Doe^Jane")

    scorer = Scorer(model, None, str(films), attempts=None)
    monkeypatch.setattr(scorer, "_open", fail)
    row = scorer.score("film.png")
    assert tuple(row) == COLUMNS
    assert "RuntimeError" in row["error"]
    assert "Doe" not in row["error"]


def test_a_failure_of_the_machine_is_not_a_row_of_the_film(model, films, capfd, monkeypatch):
    def fail(*_):
        raise InvalidImageError(NO_PROCESS, is_temporary=True)

    write_films(films, 1)
    scorer = Scorer(model, None, str(films), attempts=None)
    with monkeypatch.context() as broken:
        broken.setattr("cxr.rows.read_film", fail)
        row = scorer.score("film_00.png")
    assert row["temporary"]
    assert "temporary" not in scorer.score("film_00.png")

    out = films.parent / "out"
    sent = (row | {"path": str(films / name)} for name in ("film_00.png",))
    monkeypatch.setattr("cxr.bulk.scoring._score", lambda *_: sent)
    assert main(["bulk", str(films), str(out)]) == 1
    assert "1 film has no row" in capfd.readouterr().err
    assert not list(out.glob("*.parquet"))


def test_the_digest_distinguishes_calibrations():
    card = cxr.Classifier.load("int8").card
    assert digest(card) == digest(dataclasses.replace(card))
    assert digest(card) != digest(dataclasses.replace(card, threshold=0.6))


def test_a_dead_cluster_is_one_sentence(films, capfd, monkeypatch):
    write_films(films, 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{probe.getsockname()[1]}")
        assert main(["bulk", "films", "rows"]) == 2
    assert "no cluster answers" in capfd.readouterr().err


def test_without_ray_the_sentence_says_how_to_get_it(films, capfd, monkeypatch):
    monkeypatch.setattr(cxr.cli.importlib.util, "find_spec", lambda name: None)
    assert main(["bulk", "films", "rows"]) == 2
    assert "pip install -r requirements-bulk.txt" in capfd.readouterr().err
