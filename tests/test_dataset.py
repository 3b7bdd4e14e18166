import subprocess
import sys

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from cxr import read_image
from cxr.imaging import cut_out
from export.__main__ import digest
from tests.conftest import ROOT, read_table, run_module
from training.dataset import describe, write_shards
from training.names import SPLITS, list_films, parse_path
from training.sources import load_films, load_split

tf = pytest.importorskip("tensorflow")


def test_folder_goes_through_the_one_decoder_and_the_one_cut(tiny_data):
    films = load_films(tiny_data, "train", 64)
    assert films.images.dtype == np.uint8
    assert films.images.shape == (len(films.paths), 64, 64, 1)
    for i, path in enumerate(films.paths):
        assert np.array_equal(films.images[i, ..., 0], cut_out(read_image(tiny_data / path), (64, 64)))
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


MANY_CORES = """
import os, sys, threading
from concurrent.futures import ThreadPoolExecutor
import training
os.cpu_count = lambda: 5
from cxr.decoding import shared_pool
from training.sources import load_split

for split in ("train", "val"):
    load_split(sys.argv[1], split, 32)
film = open(sys.argv[2], "rb").read()
meeting = threading.Barrier(5, timeout=60)

def read():
    meeting.wait()  # breaks unless five films are decoded at once
    return film

with ThreadPoolExecutor(5) as threads:
    sizes = list(threads.map(lambda _: shared_pool().decode(read)[0].size, range(5)))
print(len(sizes), *set(sizes))
"""


def test_as_many_films_are_decoded_at_once_as_there_are_cores(tiny_data):
    film = next((tiny_data / "train" / "NORMAL").iterdir())
    command = [sys.executable, "-c", MANY_CORES, str(tiny_data), str(film)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines()[-1] == f"5 {128 * 128}"


def test_describe_counts_and_plots(tiny_data, tmp_path):
    rows = read_table(describe(tiny_data, tmp_path))
    assert list(rows[0])[:5] == ["split", "films", "patients", "NORMAL", "PNEUMONIA"]
    assert [row["split"] for row in rows] == list(SPLITS)
    assert sum(int(row["films"]) for row in rows) == 56
    assert (tmp_path / "class_balance.png").stat().st_size > 1000


def test_commands(tiny_data, tmp_path):
    prepared = run_module(
        "training.dataset", "prepare", "--data", tiny_data, "--out", tmp_path / "records"
    )
    assert prepared.returncode == 0
    assert "test 12 films" in prepared.stdout
    failed = run_module("training.dataset", "describe", "--data", tmp_path / "none", "--out", tmp_path)
    assert failed.returncode == 1
    assert "holds no film" in failed.stderr
