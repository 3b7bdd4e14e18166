"""The leave-series-out study on cartoon films."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

import training  # noqa: F401  before tensorflow
from experiments.ablate import (
    LEVERS,
    PROBE,
    format_table,
    format_thresholds,
    run_probe,
    study,
    summarize,
)
from experiments.boxes import BOXES, ORIGINAL_SIZES
from experiments.folds import SERIES_FOLDS, make_folds
from tests.conftest import draw_film, draw_lungs, read_table
from training.masks import find_mask, masks_beside
from training.names import parse_path

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Both normal series and both causes, in training and validation patients."""
    root = tmp_path_factory.mktemp("series") / "chest_xray"
    names = {
        "NORMAL": ("IM-{:04d}-0001.jpeg", "NORMAL2-IM-{:04d}-0001.jpeg"),
        "PNEUMONIA": ("person{}_bacteria_1.jpeg", "person{}_virus_1.jpeg"),
    }
    for label, patterns in names.items():
        (root / "train" / label).mkdir(parents=True)
        for pattern in patterns:
            missing = {"train": 6, "val": 3}
            for patient in range(1000):
                name = pattern.format(patient)
                split = parse_path(f"train/{label}/{name}").split
                if missing[split]:
                    missing[split] -= 1
                    film = Image.fromarray(draw_film(patient, label == "PNEUMONIA"))
                    film.save(root / "train" / label / name)
                    mask = find_mask(masks_beside(root), f"train/{label}/{name}")
                    mask.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(np.logical_or(*draw_lungs())).save(mask)
    return root


@pytest.fixture(scope="module")
def config(data):
    return dataclasses.replace(
        PROBE,
        data=str(data),
        weights="none",
        backbone="small_cnn",
        image_size=32,
        film_size=48,
        batch_size=4,
    )


def test_a_fold_never_trains_on_the_series_it_holds_out(config):
    folds = {fold.name: fold for fold in make_folds(config.data, config)}
    for name, held in SERIES_FOLDS.items():
        fold = folds[name]
        assert set(fold.held_out.series) == set(held)
        assert not set(fold.train.series) & set(held)
        assert not set(fold.inner.series) & set(held)
        assert not set(fold.train.patients) & set(fold.inner.patients)
        assert len(fold.held_out.labels) == 18
        assert fold.held_out.images.shape == fold.held_out_corrupted.shape == (18, 48, 48, 2)
        assert len(fold.sharpness) == 18
    patients = folds["patients"]
    assert len(patients.train.labels) == 24
    assert not set(patients.train.patients) & set(patients.held_out.patients)


def test_a_study_keeps_its_runs_and_prints_its_tables(config, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.ablate.SEEDS", 2)
    arguments = (config, ["base", "MixUp 0.2"], list(SERIES_FOLDS), None, 2)
    study(tmp_path, *arguments)
    files = sorted(tmp_path.glob("*.npz"))
    assert len(files) == 8
    times = [path.stat().st_mtime_ns for path in files]
    study(tmp_path, *arguments)
    assert [path.stat().st_mtime_ns for path in files] == times
    scores = summarize(files[0])
    assert set(scores) == {"held out", "corrupted", "sharpness"}
    assert all(0 <= value <= 1 for value in scores.values())
    base, mixup = read_table(format_table(tmp_path))
    assert (base["recipe"], mixup["recipe"]) == ("base", "MixUp 0.2")
    mean = np.mean([summarize(p)["held out"] for p in files if p.name.startswith("base")])
    assert base["held out"] == f"{mean:.4f}"
    assert ", sd " in mixup["held out"]
    with pytest.raises(ValueError, match="another configuration"):
        study(tmp_path, dataclasses.replace(config, dropout=0.5), ["base"], list(SERIES_FOLDS), None, 2)
    monkeypatch.setitem(LEVERS, "base", {"dropout": 0.5})
    with pytest.raises(ValueError, match="other settings"):
        study(tmp_path, *arguments)
    thresholds = {
        name: [float(cell) for cell in cells]
        for name, *cells in (row.values() for row in read_table(format_thresholds(tmp_path)))
    }
    assert len(thresholds) == 8
    found = []
    for kept in (np.load(path) for path in files if path.name.startswith("base")):
        for kind in ("held_out", "held_out_corrupted"):
            called, sick = kept[kind] >= 0, kept["held_out_labels"] == 1
            found.append((called[sick].mean(), (~called[~sick]).mean()))
    sensitivity, specificity = np.mean(found, axis=0)
    expected = [sensitivity, specificity, (sensitivity + specificity) / 2, np.mean(found, axis=1).min()]
    assert thresholds["logit 0"] == pytest.approx(expected, abs=1e-3)


def test_a_study_tries_other_boxes(config, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.ablate.SEEDS", 1)
    paths = [
        p for fold in make_folds(config.data, config) for p in fold.train.paths + fold.held_out.paths
    ]
    masks = tmp_path / "masks"
    masks.symlink_to(masks_beside(config.data), target_is_directory=True)
    lines = [f"{path},300,200" for path in sorted(set(paths))]
    (masks / ORIGINAL_SIZES).write_text("\n".join(["film,width,height", *lines]))
    config = dataclasses.replace(config, masks=str(masks), image_size=64)  # four cells to pool
    study(tmp_path / "runs", config, ["base", *BOXES], ["IM+bacteria"], None, 1)
    found = {path.stem.split("--")[0]: np.load(path) for path in (tmp_path / "runs").glob("*.npz")}
    assert set(found) == {"base", *BOXES}
    for box in BOXES:  # the network never sees the same
        assert not np.array_equal(found[box]["held_out"], found["base"]["held_out"]), box


def test_a_probe_with_trained_norms_has_the_statistics_of_its_weights(config):
    """An average that hardly moves leaves the statistics where they began; the last ones have moved."""
    (fold,) = (fold for fold in make_folds(config.data, config) if fold.name == "patients")
    moved = {}
    for steps in (1, 1_000_000):
        model = run_probe(fold, dataclasses.replace(config, freeze_norms=False, average_steps=steps), 4)
        norms = [layer for layer in model.layers if layer.name.startswith("bn")]
        moved[steps] = max(np.abs(norm.moving_mean.numpy()).max() for norm in norms)
    assert moved[1] > 1e-2
    assert moved[1_000_000] < 1e-4
