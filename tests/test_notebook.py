"""The Colab notebook, run on cartoon images with a small network; what downloads is left out."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT, SAMPLES

PATH = ROOT / "notebooks" / "train_on_colab.ipynb"
OPTIONS = (
    "--backbone small_cnn --image-size 64 --film-size 64 --batch-size 8 --head-epochs 0 --epochs 1 "
    "--learning-rate 1e-3 --average-steps 1 --whole-frame-share 1 --style 0 --convolution-share 0 "
    "--copy-share 0"
)
LENIENT_EXPORT = """
import sys
import export.validate
export.validate.MAX_ERASED_AUROC, export.validate.MIN_TRANSPLANTED_AUROC = 1.0, 0.0
from export.__main__ import main
sys.exit(main())
"""


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    return notebook


def has_tag(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def test_it_is_stored_without_outputs_and_opens_in_colab(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    badge = (
        r"\(https://colab\.research\.google\.com/github/\S+/blob/main/notebooks/train_on_colab\.ipynb\)"
    )
    assert re.search(badge, notebook.cells[0].source)


def test_its_commands_train_export_and_predict(notebook, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    notebook.cells = [c for c in notebook.cells if c.cell_type == "code" and not has_tag(c, "colab")]
    (parameters,) = (cell for cell in notebook.cells if has_tag(cell, "parameters"))
    changes = {"DATA": str(tiny_data), "WEIGHTS": "none", "IMAGES": str(SAMPLES), "OPTIONS": OPTIONS}
    changes["EXPORT_OPTIONS"] = "--keep 1"  # the channels of the small network cannot be removed
    for name, value in changes.items():
        assert f"\n{name} = " in parameters.source
        parameters.source += f"\n{name} = {value!r}"
    # the network of one epoch does not follow lungs; the gate has its own test
    lenient = tmp_path / "lenient_export.py"
    lenient.write_text(LENIENT_EXPORT)
    for cell in notebook.cells:
        cell.source = cell.source.replace("python -m export ", f"python {lenient} ")
        if cell.source.startswith("!"):  # a command that fails does not end its cell
            cell.source += "\nassert _exit_code == 0"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = {
        cell.id: "".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells
    }
    assert re.search(r"train\W+32\W+16\W", text["describe"])
    assert "Strategy, 1 replica(s)" in text["train"]
    assert re.search(r"auroc +\d\.\d+  \(95 % interval", text["evaluate"])
    assert re.search(r"\|\s*int8\s*\|", text["export"])
    assert text["predict"].count(".png") == len(list(SAMPLES.glob("*.png")))
    assert (tmp_path / "exported" / "pneumonia_int8.tflite").stat().st_size > 100_000
