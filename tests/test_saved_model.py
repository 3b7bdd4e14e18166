"""The SavedModel for serving: bytes in, and what the runtime says of the same files."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

import training  # noqa: F401  before tensorflow
from cxr import Classifier, LungFinder, preprocess, read_image
from export.convert import lungs_to_tflite, to_tflite
from export.saved_model import save_for_serving
from export.validate import blank_card
from tests.conftest import SAMPLES, draw_film
from training.model import build_model

tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")
pytestmark = pytest.mark.usefixtures("eagerly")

SIZE = 64


def encode(image: Image.Image, image_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


FILM = Image.fromarray(draw_film(5, pneumonia=True, size=300)).crop((0, 0, 240, 300))
CLEAR = Image.fromarray(np.tile(np.linspace(255, 90, 240).astype(np.uint8), (300, 1)))
FILES = {
    "gray and alpha": encode(Image.merge("LA", (FILM, CLEAR)), "PNG"),
    "color and alpha": encode(Image.merge("RGBA", (*FILM.convert("RGB").split(), CLEAR)), "PNG"),
    "png": encode(FILM, "PNG"),
    "jpeg": encode(FILM, "JPEG", quality=95),
    "color": encode(FILM.convert("RGB"), "JPEG", quality=95),
    "sample": (SAMPLES / "pneumonia_1.png").read_bytes(),
}


@pytest.fixture(scope="module")
def lung_network():
    """A network that takes dark places for lung: each cell's log-odds fall with its gray level."""
    image = tf_keras.layers.Input((SIZE, SIZE, 1), name="image")
    cells = tf_keras.layers.AveragePooling2D(4)(image)
    lungs = tf_keras.layers.Rescaling(-0.15, 6.0)(cells)
    turn = tf_keras.layers.Dense(4)(tf_keras.layers.GlobalAveragePooling2D()(image))
    return tf_keras.Model(image, {"lungs": lungs, "turn": turn})


@pytest.fixture(scope="module")
def finder(lung_network) -> LungFinder:
    card = dataclasses.replace(LungFinder.load().card, input_size=SIZE)
    return LungFinder(lungs_to_tflite(lung_network), card, 1)


@pytest.fixture(scope="module")
def model():
    """Random weights, with a head that gives the files below logits of ordinary size and spread."""
    tf.keras.utils.set_random_seed(3)
    model = build_model(image_size=SIZE)
    films = [preprocess(read_image(io.BytesIO(data)), SIZE) for data in FILES.values()]
    kernel = np.random.default_rng(0).standard_normal((1280, 1))
    model.get_layer("logit").set_weights([kernel, np.zeros(1)])
    views = np.concatenate([films, np.full_like(films, 255)], axis=-1)
    logits = model.predict(views.astype(np.float32), verbose=0)[:, 0]
    bias = -logits.mean() / logits.std()
    model.get_layer("logit").set_weights([kernel / logits.std(), np.array([bias])])
    return model


@pytest.fixture(scope="module")
def classifier(model, finder) -> Classifier:
    flatbuffer = to_tflite(model)
    card = blank_card(flatbuffer, "float32", SIZE, finder, {})
    return Classifier(flatbuffer, dataclasses.replace(card, temperature=3.0, offset=-0.2), finder, 1)


@pytest.fixture(scope="module")
def serve(model, lung_network, classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving") / "1"
    save_for_serving(model, lung_network, classifier.card, folder)
    return tf.saved_model.load(str(folder)).signatures["serving_default"]


@pytest.mark.parametrize("kind", FILES)
def test_a_file_gets_what_the_runtime_gives_it(serve, classifier, kind):
    data = FILES[kind]
    expected = classifier.predict(read_image(io.BytesIO(data)))
    served = {name: value.numpy()[0] for name, value in serve(film=tf.constant([data])).items()}
    assert served["logit"] == pytest.approx(expected.logit, rel=0.03, abs=0.15)
    assert served["probability"] == pytest.approx(expected.probability, abs=0.02)
    assert served["lung_box"] == pytest.approx(expected.lungs.box, abs=0.01)
    assert kind == "sample" or expected.lungs.box[0] > 0
    assert served["evidence"].mean() == pytest.approx(served["logit"], abs=1e-3)
    assert served["evidence"].shape == expected.evidence.shape
    assert np.abs(served["evidence"] - expected.evidence).max() < 0.3 * np.abs(expected.evidence).max()


def test_several_files_at_once(serve):
    alone = [serve(film=tf.constant([data]))["logit"].numpy()[0] for data in FILES.values()]
    together = serve(film=tf.constant(list(FILES.values())))["logit"].numpy()
    assert together == pytest.approx(alone, abs=1e-3)
    assert np.std(together) > 0.1


def test_bytes_that_are_no_image_are_an_error(serve):
    with pytest.raises(tf.errors.InvalidArgumentError):
        serve(film=tf.constant([b"no image"]))


def test_a_film_without_lungs_is_scored_as_a_whole(serve, classifier):
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), np.uint8)
    data = encode(Image.fromarray(noise.repeat(2, 0).repeat(2, 1)), "PNG")
    served = {name: value.numpy()[0] for name, value in serve(film=tf.constant([data])).items()}
    expected = classifier.predict(read_image(io.BytesIO(data)))
    assert expected.lungs.box is None
    assert served["lung_box"].tolist() == [0, 0, 1, 1]
    assert served["logit"] == pytest.approx(expected.logit, rel=0.03, abs=0.15)


def test_a_card_of_another_size_is_refused(model, lung_network, classifier, tmp_path):
    card = dataclasses.replace(classifier.card, input_size=96)
    with pytest.raises(ValueError, match="its card has 96 px"):
        save_for_serving(model, lung_network, card, tmp_path / "1")
