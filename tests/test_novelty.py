"""Screening: chest films are let through, everything else is not."""

import base64
import json
import shutil

import matplotlib.cbook
import numpy as np
import pydicom.data
import pytest
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

import cxr
from cxr.classifier import MODEL_NAMES
from cxr.model_file import MODELS_DIR
from cxr.novelty import REFUSED, TYPICAL, UNFAMILIAR, NoveltyModel
from tests.conftest import SAMPLES
from training.novelty import fit_novelty


@pytest.fixture(scope="module", params=MODEL_NAMES)
def classifier(request) -> cxr.Classifier:
    return cxr.Classifier.load(request.param)


def gray(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).convert("L"))


def photographs() -> list[np.ndarray]:
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        portrait = np.asarray(Image.open(file))
    return [gray(image) for image in [*load_sample_images().images, portrait]]


def text_pages() -> list[np.ndarray]:
    pages = []
    for size, ink, paper in ((14, 0, 255), (28, 230, 20), (40, 60, 200)):
        image = Image.new("L", (640, 800), paper)
        draw = ImageDraw.Draw(image)
        for line in range(800 // (size + 8)):
            words = "Findings: no acute disease of the chest " * 3
            draw.text((20, 10 + line * (size + 8)), words, fill=ink, font=ImageFont.load_default(size))
        pages.append(np.asarray(image))
    return pages


def scans() -> list[np.ndarray]:
    """CT and MR slices that pydicom ships."""
    slices = []
    for name in ("CT_small.dcm", "MR_small.dcm", "693_J2KI.dcm"):
        path = pydicom.data.get_testdata_file(name, download=False)
        values = pydicom.dcmread(path).pixel_array.astype(np.float64)
        values = np.clip(values, *np.percentile(values, (1, 99)))
        levels = np.uint8(255 * (values - values.min()) / np.ptp(values))
        slices.append(np.asarray(Image.fromarray(levels).resize((256, 256))))
    return slices


def noise() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:256, 0:256]
    return [rng.integers(0, 256, (256, 256), np.uint8), np.uint8(x), np.uint8(np.hypot(x, y) % 256)]


@pytest.mark.parametrize("sample", sorted(p.name for p in SAMPLES.glob("*_[12].png")))
def test_samples_are_typical(classifier, sample):
    prediction = classifier.predict(cxr.read_image(SAMPLES / sample))
    assert prediction.screening == TYPICAL
    assert 0 < prediction.novelty < classifier.card.novelty["unfamiliar"]
    assert not prediction.looks_inverted


@pytest.mark.parametrize("make", [photographs, text_pages, scans, noise])
def test_other_pictures_are_refused(classifier, make):
    for pixels in make():
        assert classifier.predict(pixels).screening == REFUSED


@pytest.mark.parametrize("sample", sorted(p.name for p in SAMPLES.glob("*.png")))
def test_a_negative_is_refused(classifier, sample):
    negative = classifier.predict(255 - cxr.read_image(SAMPLES / sample))
    assert negative.looks_inverted
    assert negative.screening == REFUSED


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_film_is_refused_for_the_shape_of_its_lungs(classifier, turns):
    for name in ("normal_1", "pneumonia_1"):
        turned = np.rot90(cxr.read_image(SAMPLES / f"{name}.png"), turns)
        prediction = classifier.predict(np.ascontiguousarray(turned))
        assert not prediction.lungs.has_usual_shape
        assert prediction.screening == REFUSED


def make_space(seed: int, count: int, off: float = 0.0) -> np.ndarray:
    """Embeddings near a plane of three dimensions in twenty, moved off it by ``off``."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(9).standard_normal((20, 4)))[0]
    inside = rng.standard_normal((count, 3)) @ basis[:, :3].T * 5
    return (inside + 0.1 * rng.standard_normal((count, 20)) + off * basis[:, 3]).astype(np.float32)


@pytest.fixture(scope="module")
def learned() -> NoveltyModel:
    images = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 1), np.uint8)
    return fit_novelty(make_space(0, 300), images, make_space(1, 200), components=3)


def test_novelty_grows_with_the_distance_from_the_plane(learned):
    novelty = [np.median([learned.score(e) for e in make_space(2, 50, off)]) for off in (0, 0.5, 1, 4)]
    assert novelty[0] == pytest.approx(1, abs=0.15)
    assert np.all(np.diff(novelty) > 0)
    assert learned.screen(novelty[0]) == TYPICAL
    assert learned.screen(novelty[3]) == REFUSED
    assert learned.screen((learned.unfamiliar + learned.refused) / 2) == UNFAMILIAR


def test_few_validation_films_are_unfamiliar(learned):
    screened = [learned.screen(learned.score(e)) for e in make_space(1, 200)]
    assert screened.count(UNFAMILIAR) + screened.count(REFUSED) == 4  # 2 %


def test_json_round_trip(learned):
    read = NoveltyModel.from_json(json.loads(json.dumps(learned.to_json())))
    for embedding in make_space(3, 20, off=1.0):
        assert read.score(embedding) == pytest.approx(learned.score(embedding), rel=1e-3)
    assert (read.unfamiliar, read.refused) == (learned.unfamiliar, learned.refused)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": base64.b64encode(b"\0" * 8).decode()},
        {"components": "no base64!"},
        {"template": ""},
        {"unfamiliar": 9.0, "refused": 2.0},
        {"mean": base64.b64encode(np.full(1280, np.nan, np.float32).tobytes()).decode()},
        {"usual": 0.0},
        {"usual": None},
    ],
)
def test_a_card_with_unusable_statistics_is_refused(tmp_path, change):
    for suffix in (".tflite", ".json"):
        shutil.copy(MODELS_DIR / f"pneumonia_int8{suffix}", tmp_path / f"copy{suffix}")
    card = json.loads((tmp_path / "copy.json").read_text())
    card["novelty"] |= change
    (tmp_path / "copy.json").write_text(json.dumps(card))
    with pytest.raises(
        cxr.InvalidModelError,
        match=r"novelty statistics|novelty\.usual is (0\.0|None); accepted is a number",
    ):
        cxr.Classifier.load(tmp_path / "copy.tflite")


def test_a_card_without_statistics_screens_nothing(tmp_path):
    for suffix in (".tflite", ".json"):
        shutil.copy(MODELS_DIR / f"pneumonia_int8{suffix}", tmp_path / f"copy{suffix}")
    card = json.loads((tmp_path / "copy.json").read_text()) | {"novelty": None}
    (tmp_path / "copy.json").write_text(json.dumps(card))
    classifier = cxr.Classifier.load(tmp_path / "copy.tflite")
    prediction = classifier.predict(cxr.read_image(SAMPLES / "unfamiliar.png"))
    assert prediction.novelty is prediction.screening is None
    assert prediction.looks_inverted is False
    photograph = classifier.predict(photographs()[0])
    assert photograph.lungs.box is None
    assert photograph.screening == REFUSED


def screen_folder(classifier: cxr.Classifier, folder) -> list[cxr.Prediction]:
    return [classifier.predict(cxr.read_image(path)) for path in sorted(folder.glob("*/*.jp*g"))]


def test_the_official_test_films_are_known(classifier, real_data):
    found = screen_folder(classifier, real_data / "test")
    assert len(found) == 624
    assert np.mean([p.screening == REFUSED for p in found]) <= 0.005
    assert np.mean([p.screening != TYPICAL for p in found]) <= 0.03
    assert not any(p.looks_inverted for p in found)


def test_adults_are_unfamiliar_and_rarely_refused(classifier, real_data):
    folder = real_data.parent / "nih_adults"
    if not folder.is_dir():
        pytest.skip("no films of another hospital beside CXR_DATA")
    found = screen_folder(classifier, folder)
    assert np.mean([p.screening == REFUSED for p in found]) <= 0.10
    assert np.mean([p.screening != TYPICAL for p in found]) >= 0.75
    assert not any(p.looks_inverted for p in found)


def test_negatives_of_the_test_films_are_noticed(classifier, real_data):
    films = sorted((real_data / "test").glob("*/*.jp*g"))[::6]
    found = [classifier.predict(255 - cxr.read_image(path)) for path in films]
    assert np.mean([p.looks_inverted for p in found]) >= 0.98
