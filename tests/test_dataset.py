import subprocess
import sys

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from cxr import preprocess, read_image
from export.__main__ import digest
from tests.conftest import ROOT, read_table
from training.dataset import describe, write_shards
from training.names import SPLITS, list_films, parse_path
from training.sources import load_films, load_split

tf = pytest.importorskip("tensorflow")


@pytest.mark.parametrize(
    ("name", "series", "patient"),
    [
        ("train/PNEUMONIA/person123_bacteria_456.jpeg", "bacteria", "bacteria-123"),
        ("train/PNEUMONIA/person123_virus_457.jpeg", "virus", "virus-123"),
        ("train/NORMAL/IM-0115-0001.jpeg", "IM", "IM-115"),
        ("train/NORMAL/NORMAL2-IM-0115-0001-0002.jpeg", "NORMAL2-IM", "NORMAL2-IM-115"),
        ("train/PNEUMONIA/VIRUS-1234567-0001.jpeg", "virus", "virus-1234567"),
        ("gs://bucket/x/train/NORMAL/NORMAL-28501-0001.jpeg", "NORMAL", "NORMAL-28501"),
    ],
)
def test_paths_tell_patient_and_series(name, series, patient):
    film = parse_path(name)
    assert (film.series, film.patient) == (series, patient)
    assert film.label == int("PNEUMONIA" in name)
    assert film.path.startswith("train/")


@pytest.mark.parametrize("name", ["film.jpeg", "train/OTHER/IM-0001-0001.jpeg", "train/NORMAL/a.jpeg"])
def test_other_paths_are_refused(name):
    with pytest.raises(ValueError, match="accepted is"):
        parse_path(name)


def check_splits(data):
    films = list_films(data)
    patients = {split: {f.patient for f in films if f.split == split} for split in SPLITS}
    assert all(patients.values())
    assert not patients["train"] & patients["val"]
    assert not patients["test"] & (patients["train"] | patients["val"])
    return films


def test_no_patient_is_in_two_splits(tiny_data):
    check_splits(tiny_data)


def test_no_patient_is_in_two_splits_of_the_real_data(real_data):
    films = check_splits(real_data)
    assert len(films) == 5856
    share = sum(f.split == "val" for f in films) / sum(f.split != "test" for f in films)
    assert 0.08 < share < 0.16
    validation = [f for f in films if f.split == "val"]
    assert {f.series for f in validation} == {"IM", "NORMAL2-IM", "bacteria", "virus"}


def test_folder_goes_through_the_one_preprocessing(tiny_data):
    films = load_films(tiny_data, "train", 64)
    assert films.images.dtype == np.uint8
    assert films.images.shape == (len(films.paths), 64, 64, 1)
    for i, path in enumerate(films.paths):
        assert np.array_equal(films.images[i], preprocess(read_image(tiny_data / path), 64))
        assert films.labels[i] == parse_path(path).label
        assert films.patients[i] == parse_path(path).patient


def as_dict(data, split):
    films = load_films(data, split, 64)
    rows = zip(films.paths, films.labels, films.images, strict=True)
    return {path: (label, image.tobytes()) for path, label, image in rows}


def test_shards_hold_what_the_folder_holds(tiny_data, tmp_path):
    counts = write_shards(tiny_data, tmp_path, shards=3)
    assert counts == {split: len(as_dict(tiny_data, split)) for split in SPLITS}
    for split in SPLITS:
        assert len(list(tmp_path.glob(f"{split}-*-of-00003.tfrecord"))) == 3
        assert as_dict(tmp_path, split) == as_dict(tiny_data, split)


def test_a_digest_is_of_the_films_and_not_of_their_files(tiny_data, tmp_path):
    write_shards(tiny_data, tmp_path, shards=2)
    films = load_films(tiny_data, "test", 64)
    assert digest(films) == digest(load_films(tmp_path, "test", 64))
    assert digest(films) != digest(films.select(np.arange(len(films.paths) - 1)))
    films.images[0, 0, 0, 0] ^= 1
    assert digest(films) != digest(load_films(tmp_path, "test", 64))


def test_public_pair_of_records(tiny_data, tmp_path):
    """images.tfrec (file bytes) beside paths.tfrec (path strings), as TensorFlow hosts the data set;
    the hosted pair has the films of val in train."""
    for folder, splits in (("train", ("train", "val")), ("test", ("test",))):
        (tmp_path / folder).mkdir()
        films = [f for f in list_films(tiny_data) if f.folder in splits]
        with (
            tf.io.TFRecordWriter(str(tmp_path / folder / "images.tfrec")) as images,
            tf.io.TFRecordWriter(str(tmp_path / folder / "paths.tfrec")) as paths,
        ):
            for film in films:
                images.write((tiny_data / film.path).read_bytes())
                paths.write(f"gs://bucket/ChestXRay2017/{film.path}".encode())
    for split in SPLITS:
        assert as_dict(tmp_path, split) == as_dict(tiny_data, split)


def test_refusals(tiny_data, tmp_path):
    with pytest.raises(ValueError, match="accepted is one with"):
        load_split(tmp_path, "train", 64)
    with pytest.raises(ValueError, match="accepted are train, val, test"):
        load_split(tiny_data, "dev", 64)
    (tmp_path / "train" / "NORMAL").mkdir(parents=True)
    (tmp_path / "train" / "NORMAL" / "IM-0001-0001.jpeg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"IM-0001-0001.jpeg: Received a file"):
        load_split(tmp_path, "train", 64)


def test_describe_counts_and_plots(tiny_data, tmp_path):
    rows = read_table(describe(tiny_data, tmp_path))
    assert list(rows[0])[:5] == ["split", "films", "patients", "NORMAL", "PNEUMONIA"]
    assert [row["split"] for row in rows] == list(SPLITS)
    assert sum(int(row["films"]) for row in rows) == 56
    assert (tmp_path / "class_balance.png").stat().st_size > 1000


def test_commands(tiny_data, tmp_path):
    def run(*argv):
        command = [sys.executable, "-m", "training.dataset", *map(str, argv)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    prepared = run("prepare", "--data", tiny_data, "--out", tmp_path / "records")
    assert prepared.returncode == 0
    assert "test 12 films" in prepared.stdout
    failed = run("describe", "--data", tmp_path / "none", "--out", tmp_path)
    assert failed.returncode == 1
    assert "holds no film" in failed.stderr
    assert "Traceback" not in failed.stderr
