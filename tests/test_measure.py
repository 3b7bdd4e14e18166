import shutil
import subprocess
import sys

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from tests.conftest import ROOT, SAMPLES
from training.measure import list_labelled, share_in_upper_corners


def test_upper_corners_are_the_two_above():
    maps = np.zeros((4, 3, 3), np.float32)
    for i, cell in enumerate([(0, 0), (0, 2), (2, 0), (1, 1)]):
        maps[i][cell] = 1.0
    assert share_in_upper_corners(maps) == 0.5


def test_both_layouts_are_listed(tiny_data, tmp_path):
    films = list_labelled(tiny_data, "val")
    assert len(films) == 12
    assert sum(label for _, label, _ in films) == 6
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / label).mkdir()
        shutil.copy(SAMPLES / f"{label.lower()}_1.png", tmp_path / label / "00001_002.png")
    assert [(label, patient) for _, label, patient in list_labelled(tmp_path, "val")] == [
        (0, "00001"), (1, "00001"),
    ]  # fmt: skip


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no film"):
        list_labelled(tmp_path, "val")


def test_command_prints_metrics(tmp_path):
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / label).mkdir()
        for i in (1, 2):
            shutil.copy(SAMPLES / f"{label.lower()}_{i}.png", tmp_path / label / f"{label}{i}_0.png")
    command = [sys.executable, "-m", "training.measure", str(tmp_path)]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "auroc        1.0000" in out
    assert "upper corner" in out
