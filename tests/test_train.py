"""Training on cartoon films: a step, a kill and its resumption, two replicas."""

import csv
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from tests.conftest import ROOT
from training.train import TrainConfig, load_validation, train, training_batches

tf = pytest.importorskip("tensorflow")

TINY = {"weights": "none", "image_size": 32, "film_size": 48, "batch_size": 4, "head_epochs": 1}


def history(run: Path) -> list[dict[str, str]]:
    path = run / "history.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


@pytest.fixture(scope="module")
def config(tiny_data) -> TrainConfig:
    return TrainConfig(name="tiny", data=str(tiny_data), epochs=1, **TINY)


def flags(config: TrainConfig) -> list[str]:
    values = dataclasses.asdict(config).items()
    return [text for key, value in values for text in ("--" + key.replace("_", "-"), str(value))]


def test_batches_are_balanced_and_differ_by_epoch(config):
    from training.dataset import load_split

    films = load_split(config.data, "train", config.film_size)
    first, again, second = (
        list(training_batches(films, config, epoch).take(30).as_numpy_iterator()) for epoch in (0, 0, 1)
    )
    images, labels = first[0]
    assert images.shape == (4, 32, 32, 1)
    assert labels.shape == (4, 1)
    assert np.mean([labels.mean() for _, labels in first]) == pytest.approx(0.5, abs=0.15)
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    assert not np.array_equal(first[0][0], second[0][0])


def test_stressed_films_are_the_same_patients_changed(config):
    validation = load_validation(config)
    assert validation.images.shape == validation.stressed.shape
    assert validation.images.dtype == validation.stressed.dtype == np.uint8
    assert not np.array_equal(validation.images, validation.stressed)
    assert np.array_equal(load_validation(config).stressed, validation.stressed)


def test_a_run_leaves_everything(config, tmp_path):
    run = train(config, runs=tmp_path)
    assert [row["stage"] for row in history(run)] == ["head", "finetune"]
    assert json.loads((run / "config.json").read_text()) == dataclasses.asdict(config)
    metrics = json.loads((run / "metrics.json").read_text())
    for split in ("validation", "stress"):
        assert set(metrics[split]) == {
            "auroc", "accuracy", "sensitivity", "specificity", "precision", "f1",
        }  # fmt: skip
    for name in ("learning_curves.png", "confusion_matrix.png", "roc.png", "best_weights.h5"):
        assert (run / name).stat().st_size > 1000
    with pytest.raises(ValueError, match="pass --resume"):
        train(config, runs=tmp_path)
    with pytest.raises(ValueError, match="another configuration"):
        train(dataclasses.replace(config, dropout=0.5), runs=tmp_path, resume=True)

    command = [sys.executable, "-m", "training.evaluate", "--run", run, "--data", config.data]
    evaluated = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in evaluated.stdout.splitlines()] == list(metrics["validation"])
    assert evaluated.stdout.count("95 % interval") == 6
    assert (run / "roc_test.png").exists()


def test_a_killed_run_resumes_after_its_last_epoch(config, tmp_path):
    long = dataclasses.replace(config, name="killed", epochs=3, patience=9)
    command = [sys.executable, "-m", "training.train", *flags(long)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    run = tmp_path / "runs" / "killed"
    options = {"cwd": tmp_path, "env": environment, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
    deadline = time.monotonic() + 300
    while len(history(run)) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = history(run)
    assert 2 <= len(before) < 4
    resumed = subprocess.run([*command, "--resume"], stderr=subprocess.PIPE, check=False, **options)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    after = history(run)
    assert after[: len(before)] == before
    assert [(row["stage"], row["epoch"]) for row in after] == [
        ("head", "1"), ("finetune", "1"), ("finetune", "2"), ("finetune", "3"),
    ]  # fmt: skip
    assert (run / "metrics.json").exists()


MIRRORED = """
import json, sys
from pathlib import Path
import training
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from training.train import TrainConfig, train
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
print(train(TrainConfig(**json.loads(sys.argv[1])), Path(sys.argv[2]), strategy=strategy))
"""


def test_two_virtual_devices_train_through_mirrored_strategy(config, tmp_path):
    settings = json.dumps(dataclasses.asdict(config))
    result = subprocess.run(
        [sys.executable, "-c", MIRRORED, settings, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert "MirroredStrategy, 2 replica(s)" in result.stdout
    assert len(history(tmp_path / "tiny")) == 2


def test_unknown_flags_and_bad_data_fail_with_a_sentence(tmp_path):
    def run(*argv):
        command = [sys.executable, "-m", "training.train", *argv]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    unknown = run("--learning-rat-e", "1")
    assert unknown.returncode == 2
    assert "unrecognized arguments" in unknown.stderr
