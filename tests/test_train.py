"""Training on cartoon films: a step, a kill and its resumption, two replicas."""

import csv
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import training  # noqa: F401  before tensorflow
from tests.conftest import ROOT, run_module
from training import run_folder
from training.config import TrainConfig
from training.flags import to_flat
from training.train import choose_folder, find_strategy, main, train
from training.validation import load_validation

tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")


def history(run: Path) -> list[dict[str, str]]:
    path = run / "history.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def flags(config: TrainConfig) -> list[str]:
    values = to_flat(config).items()
    result = []
    for key, value in values:
        flag = key.replace("_", "-")
        result += (
            [f"--{'' if value else 'no-'}{flag}"]
            if isinstance(value, bool)
            else [f"--{flag}", str(value)]
        )
    return result


def test_corrupted_images_are_the_same_patients_changed(config):
    validation = load_validation(config)
    images = validation.films.images
    again = load_validation(config)
    for name in ("corrupted", "transplanted"):
        altered = getattr(validation, name)
        assert images.shape == altered.shape
        assert images.dtype == altered.dtype == np.uint8
        assert np.abs(images.astype(int) - altered).mean(axis=(1, 2, 3)).min() > 1
        assert np.array_equal(getattr(again, name), altered)


def test_a_run_leaves_everything(config, tmp_path):
    run = train(config, runs=tmp_path)
    assert [row["stage"] for row in history(run)] == ["head", "finetune"]
    assert json.loads((run / "config.json").read_text()) == to_flat(config)
    metrics = json.loads((run / "metrics.json").read_text())
    for split in ("validation", "corrupted"):
        assert set(metrics[split]) == {
            "auroc", "accuracy", "sensitivity", "specificity", "precision", "f1",
            "brier", "ece", "balanced_brier", "balanced_ece", "coverage", "selective_accuracy",
        }  # fmt: skip
    assert (run / "commit.txt").read_text() == run_folder.find_commit()
    for name in ("learning_curves.png", "confusion_matrix.png", "roc.png", "best_weights.h5"):
        assert (run / name).stat().st_size > 1000
    with pytest.raises(ValueError, match="pass --resume"):
        train(config, runs=tmp_path)
    with pytest.raises(ValueError, match="another configuration"):
        train(dataclasses.replace(config, dropout=0.5), runs=tmp_path, resume=True)

    evaluated = run_module("training.evaluate", "run", run, "--data", config.data)
    assert evaluated.returncode == 0, evaluated.stderr
    title, _, *rows = evaluated.stdout.splitlines()
    assert title == "tiny on 12 films of val"  # the test split only where --split asks for it
    assert not (run / "roc_test.png").exists()
    printed = {row.split()[0]: float(row.split()[1]) for row in rows}
    expected = {name: m["value"] for name, m in metrics["validation"].items()}
    assert printed == pytest.approx(expected, abs=1e-4)


def test_a_killed_run_resumes_after_its_last_epoch(config, tmp_path):
    """The fine-tune has a learning rate of 0 here, so that every epoch of it must validate equally, if
    and only if the checkpoint brings back weights and average."""
    long = dataclasses.replace(
        config, name="killed", epochs=3, learning_rate=0.0, average_steps=10, head_learning_rate=0.1
    )
    command = [sys.executable, "-m", "training.train", *flags(long)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    run = tmp_path / "runs" / "killed"
    options = {"cwd": tmp_path, "env": environment, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
    checkpoints = run / "checkpoints" / "finetune"
    deadline = time.monotonic() + 300
    while not (checkpoints / "checkpoint").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (run / "metrics.json").exists()
    (run / "head_weights.h5").unlink()
    resumed = subprocess.run([*command, "--resume"], stderr=subprocess.PIPE, check=False, **options)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    rows = history(run)
    assert [(row["stage"], row["epoch"]) for row in rows] == [
        ("head", "1"), ("finetune", "1"), ("finetune", "2"), ("finetune", "3"),
    ]  # fmt: skip
    losses = [float(row["val_loss"]) for row in rows]
    assert losses[1:] == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert (run / "metrics.json").exists()


MIRRORED = """
import json, sys
from pathlib import Path
import training
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from training.config import TrainConfig
from training.flags import from_flat
from training.train import find_strategy, train
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
# the statistics of trained norms are averaged too
config = from_flat(TrainConfig, json.loads(sys.argv[1]) | {"freeze_norms": False, "head_epochs": 0})
print(train(config, Path(sys.argv[2]), strategy=strategy))
"""


def test_two_virtual_devices_train_through_mirrored_strategy(config, tmp_path):
    settings = json.dumps(to_flat(config))
    result = subprocess.run(
        [sys.executable, "-c", MIRRORED, settings, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert "MirroredStrategy, 2 replica(s)" in result.stdout
    assert len(history(tmp_path / "tiny")) == 1


def test_wrong_usage_fails_with_a_sentence_and_leaves_no_run(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unknown = run_module("training.train", "--learning-rat-e", "1")
    assert unknown.returncode == 2
    assert "unrecognized arguments" in unknown.stderr
    failed = run_module("training.train", *flags(dataclasses.replace(config, data=str(tmp_path))))
    assert failed.returncode == 1
    assert "received" in failed.stderr
    failed = run_module("training.train", *flags(dataclasses.replace(config, freeze_until="blok5")))
    assert failed.returncode == 1
    assert "received freeze_until 'blok5'" in failed.stderr
    assert not (tmp_path / "runs").exists()


def test_the_commit_is_a_hash_even_where_there_is_a_tag(monkeypatch, tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True
        )

    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "code.py"))
    assert run_folder.find_commit() == "unknown"
    (tmp_path / "code.py").write_text("1")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    git("tag", "--annotate", "v1", "--message", "one")
    assert re.fullmatch(r"[0-9a-f]{12}", run_folder.find_commit())
    (tmp_path / "code.py").write_text("2")
    assert re.fullmatch(r"[0-9a-f]{12}-dirty", run_folder.find_commit())


@pytest.mark.parametrize(
    ("jobs", "task", "folder"),
    [
        (("worker",), ("worker", 0), "tiny"),
        (("worker",), ("worker", 1), "tiny/worker-1"),
        (("chief", "worker"), ("chief", 0), "tiny"),
        (("chief", "worker"), ("worker", 0), "tiny/worker-0"),
        (("chief", "worker"), ("worker", 1), "tiny/worker-1"),
    ],
)
def test_only_the_chief_has_the_folder_of_the_run(monkeypatch, jobs, task, folder):
    cluster = {
        job: ["127.0.0.1:1", "127.0.0.1:2"] if job == "worker" else ["127.0.0.1:3"] for job in jobs
    }
    setting = {"cluster": cluster, "task": {"type": task[0], "index": task[1]}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(setting))
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert choose_folder(Path("tiny"), resolver) == Path(folder)


def test_two_processes_train_one_run(config, tmp_path):
    """A chief and a worker on one machine through TF_CONFIG; the worker keeps files of its own."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(f"127.0.0.1:{probe.getsockname()[1]}")
    short = dataclasses.replace(config, head_epochs=0)
    command = [sys.executable, "-m", "training.train", *flags(short)]
    cluster = {"chief": ports[:1], "worker": ports[1:]}
    workers = []
    for index, kind in enumerate(cluster):
        setting = {"cluster": cluster, "task": {"type": kind, "index": 0}}
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CONFIG": json.dumps(setting)}
        with (tmp_path / f"{index}.log").open("w") as log:
            workers.append(
                subprocess.Popen(
                    command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT
                )
            )
    try:
        codes = [worker.wait(timeout=300) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    logs = [(tmp_path / f"{index}.log").read_text() for index in range(2)]
    assert codes == [0, 0], logs[0][-2000:]
    assert all("2 replica(s)" in log for log in logs)
    first, second = (tmp_path / "runs" / name for name in ("tiny", "tiny/worker-0"))
    for run in (first, second):
        assert {p.name for p in run.glob("*.h5")} == {"finetune_weights.h5", "best_weights.h5"}
    assert history(first) == history(second)
    assert len(history(first)) == 1
    assert sorted(p.name for p in first.iterdir() if p.is_dir()) == ["checkpoints", second.name]


@pytest.mark.parametrize("kind", ["evaluator", "ps"])
def test_other_tasks_do_not_train(monkeypatch, kind):
    cluster = {"worker": ["127.0.0.1:1"], kind: ["127.0.0.1:2"]}
    setting = {"cluster": cluster, "task": {"type": kind, "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(setting))
    with pytest.raises(ValueError, match=f"the task '{kind}'; accepted are chief and worker"):
        find_strategy()


@pytest.mark.parametrize("name", ["grpc://10.0.0.2:8470", "my-tpu"])
def test_a_tpu_of_another_machine_is_refused_before_anything_is_read(name, monkeypatch, capsys):
    monkeypatch.setenv("TPU_NAME", name)
    monkeypatch.setattr(sys, "argv", ["train", "--data", "missing"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert f"received TPU_NAME={name}" in message
    assert "accepted is 'local', or none, on a TPU VM" in message


@pytest.mark.parametrize("name", [None, "", "local"])
def test_the_tpu_of_this_machine_is_looked_for(name, monkeypatch):
    sought = []

    def connect(tpu):
        sought.append(tpu)
        raise tf.errors.NotFoundError(None, None, "no TPU")

    monkeypatch.setattr(tf.distribute.cluster_resolver.TPUClusterResolver, "connect", connect)
    monkeypatch.delenv("TPU_NAME", raising=False)
    if name is not None:
        monkeypatch.setenv("TPU_NAME", name)
    assert find_strategy() is tf.distribute.get_strategy()
    assert sought == ["local"]
