"""The learning-rate range test (Smith 2017)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tf_keras

from training.batches import training_batches
from training.config import TrainConfig
from training.masks import load_masked
from training.model import build_from, set_trainable
from training.optimization import build_loss
from training.plots import plot_learning_rates

LOWEST, HIGHEST = 1e-6, 1e-1
STEPS = 80
SMOOTHING = 0.9
DIVERGED = 3.0  # times the best loss


def find_learning_rate(config: TrainConfig, run: Path) -> str:
    """Raise the learning rate step by step over the first batches of the second stage, and report where
    the loss falls fastest and where it is lowest. Saves a plot as learning_rates.png in ``run``.

    Args:
        config: the run to find a learning rate for.
        run: its folder.

    Raises:
        ValueError: if the data or weights cannot be used.
    """
    tf_keras.utils.set_random_seed(config.seed)
    films = load_masked(config.data, config.masks, "train", config.film_size).to_dataset()
    model = build_from(config, config.weights)
    set_trainable(model, True, config.freeze_until, config.freeze_norms)
    optimizer = tf_keras.optimizers.AdamW(LOWEST, weight_decay=config.weight_decay)
    model.compile(optimizer, build_loss(config))
    recorder = _Recorder()
    model.fit(
        training_batches(films, config, epoch=0), steps_per_epoch=STEPS, callbacks=[recorder], verbose=0
    )
    rates, losses = np.array(recorder.rates), np.array(recorder.losses)
    taken, finite = len(rates), np.isfinite(losses)
    rates, losses = rates[finite], losses[finite]
    steepest = int(np.argmin(np.gradient(losses, np.log(rates))))
    plot_learning_rates(rates, losses, run / "learning_rates.png")
    return (
        f"the loss falls fastest at {rates[steepest]:.1e}, is lowest at {rates[np.argmin(losses)]:.1e}, "
        f"and {taken} of {STEPS} steps were taken; see {run / 'learning_rates.png'}"
    )


class _Recorder(tf_keras.callbacks.Callback):
    """Sets the next rate after each step, records rates and smoothed losses, and stops on divergence."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.total = 0.0  # Keras reports the mean loss of the steps so far
        self.average = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        """Called by Keras."""
        loss = logs["loss"] * (batch + 1) - self.total
        self.total += loss
        self.average = SMOOTHING * self.average + (1.0 - SMOOTHING) * loss
        self.rates.append(float(self.model.optimizer.learning_rate.numpy()))
        self.losses.append(self.average / (1.0 - SMOOTHING ** (batch + 1)))
        self.model.optimizer.learning_rate = LOWEST * (HIGHEST / LOWEST) ** ((batch + 1) / STEPS)
        self.model.stop_training = not self.losses[-1] < DIVERGED * min(self.losses)
