"""The network that finds lungs: the shipped one, its training on cartoons, and its export."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from cxr import InvalidModelError, LungFinder, read_image
from cxr.lungs import SHIPPED, find_box, widen
from cxr.model_card import LungCard
from tests.conftest import SAMPLES, load_photograph
from training.run_folder import read_history


@pytest.fixture(scope="module")
def finder():
    return LungFinder.load()


@pytest.fixture(scope="module")
def pixels():
    return read_image(SAMPLES / "normal_1.png")


def test_lungs_of_a_sample_are_found_as_two_regions_inside_the_box(finder, pixels):
    lungs = finder.find(pixels)
    assert lungs.mask.shape == (40, 40)
    assert 0 <= lungs.mask.min() < 0.1
    assert 0.9 < lungs.mask.max() <= 1
    assert 0.15 < np.mean(lungs.mask >= 0.5) < 0.6
    middle = lungs.mask[20] >= 0.5
    assert np.sum(np.diff(middle.astype(int)) == 1) == 2  # the mediastinum lies between them
    low, high = np.reshape(lungs.box, (2, 2))
    assert np.all((low >= 0) & (low < 0.3))
    assert np.all((high > 0.65) & (high <= 1))
    assert lungs.quarter_turns == 0


def test_the_size_of_the_film_does_not_move_the_lungs(finder, pixels):
    large = np.asarray(Image.fromarray(pixels).resize((1500, 1500), Image.Resampling.BICUBIC))
    assert np.allclose(finder.find(large).box, finder.find(pixels).box, atol=0.03)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_film_is_recognized(finder, pixels, turns):
    assert finder.find(np.rot90(pixels, turns).copy()).quarter_turns == turns


def test_the_shape_of_lungs_is_checked_whatever_their_place_and_size(finder, pixels):
    assert finder.find(pixels).has_usual_shape
    framed = np.zeros((400, 300), np.uint8)
    framed[150:350, 60:260] = np.asarray(Image.fromarray(pixels).resize((200, 200)))
    assert finder.find(framed).are_plausible
    for other in (pixels[:, : pixels.shape[1] // 2], np.rot90(pixels).copy(), pixels[::-1].copy()):
        lungs = finder.find(other)
        assert lungs.box is not None
        assert not lungs.are_plausible


def test_a_card_whose_shape_cannot_be_used_is_refused(finder, tmp_path):
    (tmp_path / "lungs.tflite").write_bytes(SHIPPED.read_bytes())
    for change in ({"mean": "no base64!"}, {"mean": ""}, {"components": ""}):
        card = dataclasses.replace(finder.card, shape=finder.card.shape | change)
        card.save(tmp_path / "lungs.json")
        with pytest.raises(InvalidModelError, match=r"whose shape cannot be used|with shapes of 0 cells"):
            LungFinder.load(tmp_path / "lungs.tflite")
    dataclasses.replace(finder.card, shape=None).save(tmp_path / "lungs.json")
    unchecked = LungFinder.load(tmp_path / "lungs.tflite")
    assert unchecked.find(np.rot90(read_image(SAMPLES / "normal_1.png")).copy()).has_usual_shape


def test_lungs_that_reach_an_edge_may_be_cut_off(finder, pixels):
    assert finder.find(pixels).cut_off == ()
    half = finder.find(pixels[: len(pixels) // 2])
    assert "bottom" in half.cut_off


def test_without_a_likely_cell_there_is_no_box(finder):
    ramp = np.tile(np.arange(200, dtype=np.uint8)[:, np.newaxis], (1, 200))  # dark above, bright below
    lungs = finder.find(ramp)
    assert lungs.mask.max() < 0.5
    assert lungs.box is None
    assert lungs.cut_off == ()


def test_a_rotated_film_keeps_its_lungs(finder, pixels):
    area = np.mean(finder.find(pixels).mask >= 0.5)
    for degrees in (-20, 20):
        rotated = np.asarray(Image.fromarray(pixels).rotate(degrees, Image.Resampling.BILINEAR))
        assert np.mean(finder.find(rotated).mask >= 0.5) == pytest.approx(area, rel=0.3)


def test_a_box_ignores_specks_and_scale():
    mask = np.zeros((40, 40))
    mask[10:30, 8:32] = 1.0
    mask[0, 0] = 1.0
    box = find_box(mask)
    assert box == pytest.approx((0.2, 0.25, 0.8, 0.75), abs=0.02)
    assert find_box(mask * 255) == pytest.approx(box)
    assert find_box(np.zeros((4, 4))) == (0.0, 0.0, 1.0, 1.0)
    assert widen((0.2, 0.0, 0.8, 0.5), 0.1) == pytest.approx((0.14, 0.0, 0.86, 0.55))


def test_a_model_of_another_card_is_refused(tmp_path):
    (tmp_path / "lungs.tflite").write_bytes(SHIPPED.read_bytes()[:-1] + b"x")
    (tmp_path / "lungs.json").write_bytes(SHIPPED.with_suffix(".json").read_bytes())
    with pytest.raises(InvalidModelError, match="belongs to another card"):
        LungFinder.load(tmp_path / "lungs.tflite")
    with pytest.raises(InvalidModelError, match="cannot be read"):
        LungFinder.load(tmp_path / "none.tflite")


def test_the_shipped_model_is_small_and_meets_its_goals(finder):
    card = LungCard.load(SHIPPED.with_suffix(".json"))
    assert card.size_bytes == len(SHIPPED.read_bytes()) < 300_000
    for split in ("validation", "test"):
        assert card.metrics[split]["dice"]["value"] >= 0.95


def test_the_card_repeats_on_the_real_data(finder, real_data):
    from export.lungs import measure_finder
    from training.masks import load_masked

    films = load_masked(real_data, "", "test", 224)
    measured = measure_finder(finder, films)
    for name in ("dice", "box_overlap"):
        expected = finder.card.metrics["test"][name]["value"]
        assert measured[name]["value"] == pytest.approx(expected, abs=0.002)


def test_a_photograph_has_fewer_certain_cells_than_a_film(finder, pixels):
    photograph = np.asarray(Image.fromarray(load_photograph()).convert("L"))
    assert np.mean(finder.find(photograph).mask >= 0.9) < np.mean(finder.find(pixels).mask >= 0.9)


@pytest.fixture(scope="module")
def lung_config(tiny_data, tmp_path_factory):
    """A short run on cartoons, whose lungs are dark ellipses."""
    from training.augmentation import Augmentation
    from training.lungs import LungConfig

    masks = tmp_path_factory.mktemp("masks")
    y, x = np.mgrid[0:128, 0:128] / 128
    ellipses = sum(((x - c) / 0.14) ** 2 + ((y - 0.5) / 0.32) ** 2 < 1 for c in (0.3, 0.7))
    for film in tiny_data.glob("*/*/*.jpeg"):
        path = masks / film.relative_to(tiny_data).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((ellipses * 255).astype(np.uint8)).convert("1").save(path)
    return LungConfig(
        data=str(tiny_data),
        masks=str(masks),
        image_size=64,
        film_size=64,
        batch_size=4,
        epochs=25,  # BatchNorm needs steps
        turned_share=0.0,
        inverted_share=0.0,
        augmentation=Augmentation(crop_area=0.6, style=0.2),
    )


@pytest.fixture(scope="module")
def lung_run(lung_config, tmp_path_factory):
    from training.lungs import train_lungs

    return train_lungs(lung_config, tmp_path_factory.mktemp("lungs"))


def test_a_stopped_run_resumes_and_keeps_its_best_epoch(lung_config, tmp_path, monkeypatch):
    from training import lungs

    config = dataclasses.replace(lung_config, epochs=5)
    scores = iter([0.5, 0.9, None, 0.4, 0.3, 0.2])  # it stops in the third epoch

    def score(*_):
        value = next(scores, 0.0)
        if value is None:
            raise KeyboardInterrupt
        return np.array([value])

    monkeypatch.setattr(lungs, "dice", score)
    with pytest.raises(KeyboardInterrupt):
        lungs.train_lungs(config, tmp_path)
    best = (tmp_path / "lungs" / "best_weights.h5").read_bytes()
    with pytest.raises(ValueError, match="pass --resume"):
        lungs.train_lungs(config, tmp_path)
    run = lungs.train_lungs(config, tmp_path, resume=True)
    rows = read_history(run)
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [float(row["val_dice"]) for row in rows] == [0.5, 0.9, 0.4, 0.3, 0.2]
    assert (run / "best_weights.h5").read_bytes() == best
    lungs.train_lungs(config, tmp_path, resume=True)  # it is complete, so nothing is trained
    assert read_history(run) == rows


def test_training_on_cartoons_finds_their_lungs(lung_run):
    metrics = json.loads((lung_run / "metrics.json").read_text())
    assert metrics["dice"] > 0.6
    assert metrics["box_overlap"] > 0.5


def test_the_export_of_a_run_is_measured_and_loads(lung_run, tmp_path, monkeypatch):
    from export.lungs import main

    monkeypatch.setattr("training.metrics.BOOTSTRAP_RESAMPLES", 50)
    monkeypatch.setattr("export.lungs.MAX_DICE_LOSS", 0.2)  # a few steps leave wide activations
    arguments = ["export.lungs", "--run", str(lung_run), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    assert main() == 0
    exported = LungFinder.load(tmp_path / "lungs_int8.tflite")
    assert exported.card.input_size == 64
    assert set(exported.card.metrics) == {"validation", "test"}
    assert exported.card.shape["limit"] > 1
    assert exported.card.provenance["masks"].startswith("V7 Labs")


def test_an_int8_model_that_loses_lungs_is_refused(lung_run, tmp_path, monkeypatch, capsys):
    from export.lungs import main

    monkeypatch.setattr("training.metrics.BOOTSTRAP_RESAMPLES", 20)
    monkeypatch.setattr("export.lungs.MAX_DICE_LOSS", -1.0)  # int8 would have to be better by 1
    arguments = ["export.lungs", "--run", str(lung_run), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", arguments)
    assert main() == 1
    assert "Nothing written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_masks_are_named(tiny_data, tmp_path):
    from training.masks import load_masked, load_masks

    with pytest.raises(ValueError, match="lack 32 of 32 images"):
        load_masked(tiny_data, tmp_path, "train", 64)
    with pytest.raises(ValueError, match=r"which lacks train/NORMAL/x\.png"):
        load_masks(tmp_path, ["train/NORMAL/x.jpeg"], 64)
