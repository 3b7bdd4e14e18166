"""Small synthetic films, and the real data set where ``CXR_DATA`` names it."""

import dataclasses
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from sklearn.datasets import load_sample_images
from streamlit.testing.v1 import AppTest

from cxr import InvalidImageError, read_film
from cxr.model_file import MODELS_DIR

if "PYTEST_XDIST_WORKER" in os.environ:  # else each worker takes all cores, and they hinder each other
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "streamlit_app" / "samples"
# settings of training.augmentation.Augmentation that change nothing but for a mirror image
STILL = {
    "whole_frame_share": 1.0, "rotation_deg": 0.0, "style": 0.0, "band_gains": 0.0,
    "convolution_share": 0.0, "border_share": 0.0, "copy_share": 0.0,
}  # fmt: skip
CR_IMAGE = "1.2.840.10008.5.1.4.1.1.1"


def draw_film(seed: int, pneumonia: bool, size: int = 128) -> np.ndarray:
    """A cartoon of a film, uint8 (size, size): two dark lungs, one filled where ``pneumonia``."""
    rng = np.random.default_rng(seed)
    film = 170 + 10 * rng.standard_normal((size, size))
    for i, lung in enumerate(draw_lungs(size)):
        filled = pneumonia and i == seed % 2
        film[lung] -= 30 if filled else 110
    return np.clip(film, 0, 255).astype(np.uint8)


def draw_lungs(size: int = 128) -> list[np.ndarray]:
    """The two lungs of ``draw_film``, bool (size, size)."""
    y, x = np.mgrid[0:size, 0:size] / size
    return [((x - center) / 0.14) ** 2 + ((y - 0.5) / 0.32) ** 2 < 1 for center in (0.3, 0.7)]


def make_dicom(film: np.ndarray, **tags) -> Dataset:
    """A radiograph of uint8 or uint16 (H, W) as a DICOM data set, with a patient's name in it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CR_IMAGE
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Doe^Jane", "4711", "CR"
    dataset.Rows, dataset.Columns = film.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = film.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = film.itemsize * 8 - 1, 0
    dataset.PixelData = film.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def save_dicom(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def make_color_film() -> bytes:
    """A DICOM file that contradicts itself: gray, with three samples a pixel."""
    gray = np.asarray(Image.open(SAMPLES / "normal_1.png").convert("L"))
    color = np.repeat(gray[..., np.newaxis], 3, axis=-1).tobytes()
    return save_dicom(make_dicom(gray, SamplesPerPixel=3, PlanarConfiguration=0, PixelData=color))


def write_films(folder: Path, number: int, marks: dict[int, bytes] | None = None) -> None:
    """Copies of the samples, each with a mark of six letters after its picture."""
    samples = sorted(SAMPLES.glob("*.png"))
    for i in range(number):
        mark = (marks or {}).get(i, f"no{i:04}".encode())
        (folder / f"film_{i:02}.png").write_bytes(samples[i % len(samples)].read_bytes() + mark)


@pytest.fixture(scope="session")
def film() -> np.ndarray:
    return draw_film(seed=0, pneumonia=True)


@pytest.fixture
def model_copy(tmp_path) -> Path:
    """A copy of the shipped int8 model with its card."""
    for suffix in (".tflite", ".json"):
        shutil.copy(MODELS_DIR / f"pneumonia_int8{suffix}", tmp_path / f"copy{suffix}")
    return tmp_path / "copy.tflite"


@pytest.fixture
def folder(tmp_path):
    """Two films in nested folders, a damaged one, and a file that is not a film."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    Image.open(SAMPLES / "normal_1.png").save(tmp_path / "a.png")
    Image.open(SAMPLES / "pneumonia_1.png").save(tmp_path / "deep" / "er" / "b.JPEG")
    (tmp_path / "deep" / "broken.png").write_bytes((SAMPLES / "normal_1.png").read_bytes()[:999])
    (tmp_path / "notes.txt").write_text("not a film")
    return tmp_path


@pytest.fixture
def films(tmp_path, monkeypatch) -> Path:
    """An empty folder ``films`` in the folder in which the test runs."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "films"
    folder.mkdir()
    return folder


@pytest.fixture
def page() -> AppTest:
    return AppTest.from_file(str(ROOT / "streamlit_app" / "app.py"), default_timeout=60).run()


def show_sample(page: AppTest, name: str) -> AppTest:
    """Show a sample as a click does, which changes the address; AppTest knows no components."""
    page.query_params["sample"] = name
    return page.run()


def upload(page: AppTest, name: str, data: bytes) -> AppTest:
    page.file_uploader[0].upload(name, data, "application/octet-stream")
    return page.run()


def assert_film_or_error(data: bytes) -> None:
    """Whatever the file, ``read_film`` gives a film within the bounds, or one error."""
    try:
        film = read_film(io.BytesIO(data))
    except InvalidImageError as error:
        assert "accepted is" in str(error)
    else:
        assert film.pixels.dtype == np.uint8
        assert film.pixels.ndim == 2
        assert film.pixels.size <= 50_000_000


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def edit_card(model: Path, **changes) -> None:
    """Change fields of the card beside a model."""
    path = model.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def run_module(module: str, *argv: object) -> subprocess.CompletedProcess:
    """What ``python -m module`` prints and returns, without the seconds a new process takes."""
    arguments = [module, *map(str, argv)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", arguments)
        try:
            importlib.import_module(module).main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def read_table(text: str) -> list[dict[str, str]]:
    """The rows of the markdown table in ``text``, by column."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


def load_photograph() -> np.ndarray:
    """A temple in China, uint8 (H, W, 3): no chest film."""
    return load_sample_images().images[0]


PATIENTS = {"train": 8, "val": 3, "test": 3}  # of each class, with two films each


def name_film(label: str, patient: int, image: int) -> str:
    cause = "bacteria" if patient % 2 else "virus"
    if label == "NORMAL":
        return f"IM-{patient:04d}-{image:04d}.jpeg"
    return f"person{patient}_{cause}_{image}.jpeg"


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A data set of 56 cartoon films in the official layout and naming, with their masks beside it."""
    from training.masks import find_mask, masks_beside
    from training.names import LABELS, parse_path

    root = tmp_path_factory.mktemp("data") / "chest_xray"
    for label in LABELS:
        missing = dict(PATIENTS)
        for patient in range(1000):
            folder = "test" if patient >= 900 else "val" if patient % 10 == 0 else "train"
            split = parse_path(f"{folder}/{label}/{name_film(label, patient, 1)}").split
            if not missing[split]:
                continue
            missing[split] -= 1
            (root / folder / label).mkdir(parents=True, exist_ok=True)
            for image in (1, 2):
                pixels = draw_film(10 * patient + image, pneumonia=label == "PNEUMONIA")
                path = root / folder / label / name_film(label, patient, image)
                Image.fromarray(pixels).save(path, quality=95)
                mask = find_mask(masks_beside(root), path.relative_to(root))
                mask.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.logical_or(*draw_lungs())).save(mask)
        assert not any(missing.values())
    return root


@pytest.fixture(scope="session")
def real_data() -> Path:
    if "CXR_DATA" not in os.environ:
        pytest.skip("CXR_DATA does not name the real data set")
    return Path(os.environ["CXR_DATA"]).resolve()


@pytest.fixture
def labelled(tmp_path) -> Path:
    """The samples in a folder of each label."""
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / label).mkdir()
        for i in (1, 2):
            shutil.copy(SAMPLES / f"{label.lower()}_{i}.png", tmp_path / label / f"{label}{i}_0.png")
    return tmp_path


@pytest.fixture(scope="session")
def tiny_films(tiny_data):
    """The training films of ``tiny_data`` with their masks, uint8 (N, 64, 64, 2)."""
    from training.masks import load_masked

    return load_masked(tiny_data, "", "train", 64)


@pytest.fixture(scope="module")
def eagerly():
    """TensorFlow runs each operation as it comes. For a few steps, that takes less time than tracing a
    graph does. The commands of test_train, test_notebook and test_lungs train in graphs, as users do."""
    import training  # noqa: F401  before tensorflow

    tf = pytest.importorskip("tensorflow")
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def small_backbone() -> str:
    """An EfficientNet of the same kinds of layers with five blocks and a third of the width: TensorFlow
    traces it in a third of the time. It exists in the tests' process alone."""
    from tf_keras.src.applications.efficientnet import DEFAULT_BLOCKS_ARGS, EfficientNet

    from training.model import BACKBONES

    first, second, third, _, _, sixth, _ = DEFAULT_BLOCKS_ARGS
    blocks = [first | {"strides": 2}, second, third, sixth | {"filters_in": third["filters_out"]}]

    def build(**options):
        return EfficientNet(0.35, 0.3, 64, blocks_args=blocks, model_name="small", **options)

    BACKBONES["small"] = dataclasses.replace(BACKBONES["efficientnet_b0"], build=build)
    return "small"


@pytest.fixture(scope="session")
def model(small_backbone):
    """Random weights, with a head large enough to give logits of ordinary size."""
    import tf_keras

    from training.model import build_model

    tf_keras.utils.set_random_seed(3)
    model = build_model(small_backbone, image_size=64)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            gamma, *rest = layer.get_weights()
            layer.set_weights([gamma * rng.uniform(1.0, 3.0, gamma.shape), *rest])
    for name, bias in (("logit", 0.5), ("cause", -0.5)):
        head = model.get_layer(name)
        head.set_weights([rng.standard_normal(head.kernel.shape), np.array([bias])])
    return model


@pytest.fixture(scope="session")
def run(model, small_backbone, tiny_data, tmp_path_factory):
    """A run of ``training.train`` with the weights of ``model``."""
    from training.config import TrainConfig
    from training.flags import to_flat

    config = TrainConfig(
        name="tiny", data=str(tiny_data), weights="none", backbone=small_backbone, image_size=64,
        film_size=96, batch_size=4,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_flat(config)))
    model.save_weights(folder / "best_weights.h5")
    return folder


@pytest.fixture(scope="session")
def config(tiny_data):
    """A run of one epoch on the cartoon films."""
    from training.config import TrainConfig

    return TrainConfig(
        name="tiny",
        data=str(tiny_data),
        weights="none",
        backbone="small_cnn",
        image_size=32,
        film_size=48,
        batch_size=4,
        head_epochs=1,
        epochs=1,
    )


def archive(members: dict[str, bytes]) -> bytes:
    """A ZIP archive of files by name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in members.items():
            zipped.writestr(name, data)
    return file.getvalue()
