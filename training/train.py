"""Fine-tune the classifier on TPU, GPU or CPU.

The published run::

    python -m training.train --data data/chest_xray --weights efficientnetb0_imagenet_notop.h5

takes 22 minutes on two CPU cores. On the validation patients it reaches an AUROC of .9941, .9947 with
corruption and .9935 with the lungs in another image's frame. models/README.md has the figures of what is
exported.

The output goes to ``runs/<name>/``: config.json, history.csv, metrics.json, best_weights.h5, the learning
curves, the confusion matrix and ROC of the validation patients, and checkpoints for ``--resume``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from training.averaging import WeightAverage, read_weights, write_weights
from training.batches import count_steps, training_batches
from training.calibration import THRESHOLD, Calibration, calibrate
from training.config import TrainConfig
from training.flags import add_flags, from_flat, to_flat
from training.learning_rate import find_learning_rate
from training.masks import load_masked
from training.metrics import format_metrics
from training.model import build_from, set_trainable
from training.optimization import compile_model
from training.plots import plot_confusion, plot_learning_curves, plot_roc
from training.run_folder import check_run, read_history, write_config, write_history
from training.validation import Validation, load_validation, predict_logits, validate


def find_strategy() -> tf.distribute.Strategy:
    """Choose where to train: on several workers if TF_CONFIG is set, on this machine's TPU if it has one,
    on all GPUs if there are several, and otherwise on the default device.

    Raises:
        ValueError: if TF_CONFIG names a task that does not train, such as an evaluator, or TPU_NAME a TPU
            of another machine, which cannot run our decoder.
    """
    if "TF_CONFIG" in os.environ:  # comes first: the collectives must be set up before any operation
        task = tf.distribute.cluster_resolver.TFConfigClusterResolver().task_type
        if task not in ("chief", "worker"):
            raise ValueError(f"received TF_CONFIG with the task {task!r}; accepted are chief and worker")
        return tf.distribute.MultiWorkerMirroredStrategy()
    tpu = os.environ.get("TPU_NAME") or "local"
    if tpu != "local":  # as TPUClusterResolver decides: all else is an address, or a name to look up
        raise ValueError(
            f"received TPU_NAME={tpu}, a TPU of another machine, where the Python function that decodes "
            "images cannot run; accepted is 'local', or none, on a TPU VM"
        )
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, tf.errors.NotFoundError):  # no TPU
        pass
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def train(
    config: TrainConfig,
    runs: Path = Path("runs"),
    resume: bool = False,
    strategy: tf.distribute.Strategy | None = None,
) -> Path:
    """Train both stages, keep the averaged weights of the best epoch and report on validation.

    Args:
        config: the run.
        runs: folder of runs.
        resume: continue a run that was stopped and that was started with the same config.
        strategy: where to train; found by ``find_strategy`` when not given.

    Returns:
        ``runs/<name>``, which only the chief writes. Every other worker has its own copy in
        ``runs/<name>/worker-<i>``.

    Raises:
        ValueError: if the run exists and ``resume`` is false, or was started with another config, or
            the data or weights cannot be used.
    """
    strategy = strategy or find_strategy()
    print(f"{type(strategy).__name__}, {strategy.num_replicas_in_sync} replica(s)", flush=True)
    run = runs / config.name
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        run = choose_folder(run, strategy.cluster_resolver)
    check_run(run, to_flat(config), resume)
    tf_keras.utils.set_random_seed(config.seed)
    films = load_masked(config.data, config.masks, "train", config.film_size).to_dataset()
    validation = load_validation(config)
    with strategy.scope():
        model = build_from(config, config.weights)
        set_trainable(model, True, config.freeze_until)  # a wrong name fails before there is a run
    write_config(run, to_flat(config))
    stages = (
        ("head", config.head_epochs, config.head_learning_rate),
        ("finetune", config.epochs, config.learning_rate),
    )
    steps = count_steps(films, config)
    for stage, epochs, learning_rate in stages:
        with strategy.scope():
            set_trainable(model, stage == "finetune", config.freeze_until, config.freeze_norms)
            compile_model(model, config, learning_rate, steps * epochs)
        _fit_stage(model, films, validation, config, run, stage, epochs)
    _report(model, validation, run)
    return run


def _fit_stage(
    model: tf_keras.Model,
    films: tf.data.Dataset,
    validation: Validation,
    config: TrainConfig,
    run: Path,
    stage: str,
    epochs: int,
) -> None:
    """Fit one stage from its last checkpoint on, and leave the best epoch's weights in the model.

    An epoch is done when its checkpoint is written, which comes last. On resuming, a row of history.csv
    without a checkpoint is dropped.

    The loop over epochs is written out because the callbacks of tf_keras lose what a resumed run needs:
    EarlyStopping starts to count again with every ``fit``. BackupAndRestore does not save the average,
    and restores the epoch inside ``fit``, when the batches have been chosen. CSVLogger cannot drop a row.
    """
    average = WeightAverage(model, config.average_steps)
    model.optimizer.build(model.trainable_variables)
    state = tf.train.Checkpoint(model=model, optimizer=model.optimizer, average=average.values)
    manager = tf.train.CheckpointManager(state, str(run / "checkpoints" / stage), max_to_keep=1)
    best_weights = run / f"{stage}_weights.h5"
    done = 0
    if manager.latest_checkpoint:
        state.restore(manager.latest_checkpoint).assert_existing_objects_matched()
        done = int(manager.latest_checkpoint.rsplit("-", 1)[1])
    rows = [r for r in read_history(run) if r["stage"] != stage or int(r["epoch"]) <= done]
    for epoch in range(done, epochs):
        scores = [float(row["score"]) for row in rows if row["stage"] == stage]
        if scores and len(scores) - 1 - int(np.argmax(scores)) >= config.patience:
            break
        fitted = model.fit(
            training_batches(films, config, epoch),
            steps_per_epoch=count_steps(films, config),
            callbacks=[average],
            verbose=2,
        )
        last_weights = read_weights(model)
        write_weights(model, average.weights())
        row = {"stage": stage, "epoch": epoch + 1, "loss": fitted.history["loss"][0]}
        row |= validate(model, validation)
        if row["score"] > max(scores, default=-1.0):
            temporary = best_weights.with_stem("new")
            model.save_weights(temporary)
            temporary.replace(best_weights)
        write_weights(model, last_weights)
        rows.append(row)
        write_history(run, rows)
        manager.save(checkpoint_number=epoch + 1)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    if best_weights.exists():
        model.load_weights(best_weights)


def _report(model: tf_keras.Model, validation: Validation, run: Path) -> None:
    model.save_weights(run / "best_weights.h5")
    logits = predict_logits(model, validation.films.images)[:, 0]
    corrupted = predict_logits(model, validation.corrupted)[:, 0]
    labels = validation.films.labels
    calibration = Calibration.fit(logits, corrupted, labels)
    metrics: dict[str, Any] = {"calibration": dataclasses.asdict(calibration)}
    for name, z in (("validation", logits), ("corrupted", corrupted)):
        metrics[name] = calibration.measure(labels, z, validation.films.patients)
        print(f"{name}\n{format_metrics(metrics[name])}")
    (run / "metrics.json").write_text(json.dumps(metrics, indent=2))
    probabilities = calibrate(logits, calibration.temperature, calibration.offset)
    plot_roc(labels, probabilities, run / "roc.png", "ROC, validation patients")
    plot_confusion(labels, probabilities >= THRESHOLD, run / "confusion_matrix.png", "Validation films")
    if history := read_history(run):
        plot_learning_curves(history, run / "learning_curves.png")


def choose_folder(run: Path, resolver: tf.distribute.cluster_resolver.ClusterResolver) -> Path:
    """The run's folder for the chief, and a folder inside it for every other worker.

    The chief is the task of that name, or worker 0 if there is none. The other workers must save too,
    because reading a variable that is spread over the workers needs all of them.
    """
    has_chief = "chief" in resolver.cluster_spec().jobs
    if resolver.task_type == "chief" or (resolver.task_id == 0 and not has_chief):
        return run
    return run / f"worker-{resolver.task_id}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        description="Fine-tune the classifier.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_flags(parser, TrainConfig)
    parser.add_argument("--resume", action="store_true", help="continue a stopped run")
    parser.add_argument("--find-lr", action="store_true", help="try learning rates instead of training")
    options = vars(parser.parse_args())
    resume, find_lr = options.pop("resume"), options.pop("find_lr")
    config = from_flat(TrainConfig, options)
    try:
        if find_lr:
            print(find_learning_rate(config, Path("runs") / config.name))
        else:
            print(train(config, resume=resume))
    except ValueError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
