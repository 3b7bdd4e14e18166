"""Masks from V7's public annotations, on a small archive that is made here."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.conftest import draw_film, run_module
from training.coco import draw_masks
from training.masks import load_masks


def ellipse(center: float, size: tuple[int, int]) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    points = np.stack([center + 0.14 * np.cos(angles), 0.5 + 0.32 * np.sin(angles)], axis=1)
    return (points * size).ravel().tolist()


@pytest.fixture
def data(tmp_path):
    """Two films of one size, one of them mirrored to the left, and one of another size."""
    root = tmp_path / "chest_xray" / "train" / "NORMAL"
    root.mkdir(parents=True)
    centred = Image.fromarray(draw_film(0, False, size=300)).resize((400, 300))
    moved = np.full((300, 400), 170, np.uint8)
    moved[:, :280] = np.asarray(centred.resize((280, 300)))
    Image.fromarray(moved).save(root / "IM-0001-0001.png")
    centred.save(root / "IM-0002-0001.png")
    centred.resize((500, 350)).save(root / "IM-0003-0001.png")
    Image.fromarray(draw_film(1, False, size=222)).save(root / "IM-0004-0001.png")  # not annotated
    return tmp_path / "chest_xray"


@pytest.fixture
def annotations(tmp_path):
    sizes = {7: (500, 350), 8: (400, 300), 9: (400, 300), 10: (999, 999)}
    squeezed = {9: 0.7}  # the lungs of the moved film
    entries = [
        {
            "image_id": i,
            "category_id": category,
            "segmentation": [
                [x * squeezed.get(i, 1) if k % 2 == 0 else x for k, x in enumerate(ellipse(c, size))]
            ],
        }
        for i, size in sizes.items()
        for c, category in ((0.3, 0), (0.7, 0), (0.5, 1))
    ]
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": w, "height": h} for i, (w, h) in sizes.items()
        ],
        "annotations": entries,
        "categories": [{"id": 0, "name": "Lung"}, {"id": 1, "name": "Ignore"}],
    }
    path = tmp_path / "all-images-coco.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("all-images-coco.json", json.dumps(content))
    return path


def test_masks_are_paired_by_size_and_content(data, annotations, tmp_path):
    out = tmp_path / "masks"
    assert draw_masks(annotations, data, out) == 3
    names = [f"train/NORMAL/IM-000{i}-0001.png" for i in (1, 2, 3)]
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png")) == names
    with Image.open(out / names[0]) as image:
        assert (image.mode, image.size) == ("1", (224, 224))
    moved, centred, other = load_masks(out, names, 224)[..., 0] > 127
    assert np.mean(centred != other) < 0.01
    assert centred.any(0).nonzero()[0].max() > 180  # the ignored polygon is not drawn
    assert not centred[112, 105:119].any()
    assert moved.any(0).nonzero()[0].max() < 140
    assert draw_masks(annotations, data, out) == 3  # again


def test_one_command_draws_them_beside_the_data(data, annotations):
    result = run_module("training.dataset", "lungs", "--annotations", annotations, "--data", data)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.startswith("3 masks in ")
    assert (data.parent / "lung_masks" / "train" / "NORMAL" / "IM-0003-0001.png").exists()


@pytest.mark.parametrize("content", [b"no archive", b"{}", b'{"images": 3, "annotations": []}', b"[]"])
def test_other_files_are_refused_with_a_sentence(content, data, tmp_path):
    (tmp_path / "wrong.json").write_bytes(content)
    arguments = ("--annotations", tmp_path / "wrong.json", "--data", data)
    failed = run_module("training.dataset", "lungs", *arguments)
    assert failed.returncode == 1
    assert "accepted" in failed.stderr
