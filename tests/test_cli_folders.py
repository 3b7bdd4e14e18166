"""Which files of a folder ``predict`` takes, and what it says of the others."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr.cli import main
from cxr.files import list_files
from tests.conftest import SAMPLES, make_dicom, save_dicom


@pytest.fixture
def locked(folder, monkeypatch):
    """A folder with a film, in ``folder``, that nobody may list. Root may, so it is refused here."""
    path = folder / "locked"
    path.mkdir()
    (path / "film.png").write_bytes((SAMPLES / "normal_1.png").read_bytes())
    path.chmod(0)
    scandir = os.scandir

    def refuse(place="."):
        if os.fspath(place) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    yield path
    path.chmod(0o700)


def test_folders_that_cannot_be_listed_are_named_and_the_rest_is_scored(folder, locked, capfd):
    assert main(["predict", str(folder), str(locked), "--format", "json"]) == 1
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["path"] for row in rows if row["label"]] == [
        str(folder / "a.png"),
        str(folder / "deep" / "er" / "b.JPEG"),
    ]
    refused = [row["error"] for row in rows if row["path"] == str(locked)]
    assert len(refused) == 2  # within the folder, and as it was named
    assert all("cannot be listed (Permission denied)" in error for error in refused)


def test_a_path_that_may_not_be_looked_up_gets_a_row(folder, capfd, monkeypatch):
    def refuse_below(function):
        def refuse(path, *args, **kwargs):
            if path.is_relative_to(folder):
                raise PermissionError(13, "Permission denied")
            return function(path, *args, **kwargs)

        return refuse

    for name in ("is_dir", "open"):
        monkeypatch.setattr(Path, name, refuse_below(getattr(Path, name)))
    assert main(["predict", str(folder / "a.png"), "--format", "json"]) == 1
    assert "Permission denied" in json.loads(capfd.readouterr().out)["error"]


def test_links_to_files_are_followed_and_links_to_folders_are_named(folder, tmp_path_factory, capfd):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "film.png").write_bytes((SAMPLES / "normal_1.png").read_bytes())
    (folder / "circle").symlink_to(folder)
    (folder / "out").symlink_to(elsewhere)
    (folder / "film.png").symlink_to(elsewhere / "film.png")
    (folder / "gone.png").symlink_to(elsewhere / "gone.png")
    assert main(["predict", str(folder), "--format", "json"]) == 1
    rows = {row["path"]: row for row in map(json.loads, capfd.readouterr().out.splitlines())}
    assert len(rows) == 7
    assert rows[str(folder / "film.png")]["label"] == "NORMAL"
    assert "No such file" in rows[str(folder / "gone.png")]["error"]
    for name in ("circle", "out"):
        assert "a link to a folder" in rows[str(folder / name)]["error"]
    assert main(["predict", str(folder / "out"), "--format", "json"]) == 0  # as it was named


def test_pipes_are_no_films(folder):
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe")
    assert not [path for path in list_files(folder) if path.name.startswith("pipe")]


def test_dicom_films_in_a_folder_need_no_extension(tmp_path, capfd):
    film = np.asarray(Image.open(SAMPLES / "pneumonia_1.png").convert("L"))
    (tmp_path / "IM000001").write_bytes(save_dicom(make_dicom(film)))
    (tmp_path / "two.DCM").write_bytes(save_dicom(make_dicom(film)))
    (tmp_path / "LICENSE").write_text("no film " * 50)
    assert main(["predict", str(tmp_path), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert [row["label"] for row in rows] == ["PNEUMONIA"] * 2


@pytest.mark.parametrize("path", ["missing.png", "empty"])
def test_paths_without_films_get_a_row(tmp_path, capfd, path):
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(tmp_path / path), "--format", "json"]) == 1
    assert json.loads(capfd.readouterr().out)["error"]


def test_films_named_by_their_uid_are_found_and_an_index_is_not(film, tmp_path, capfd):
    for name in ("CR.1.2.826.0.1.498", "1.2.840.113619.78"):
        (tmp_path / name).write_bytes(save_dicom(make_dicom(film)))
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert main(["predict", str(tmp_path), "--format", "json"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [Path(row["path"]).name for row in rows] == ["1.2.840.113619.78", "CR.1.2.826.0.1.498"]
