"""Train the network that finds the lungs.

Command::

    python -m training.lungs --data data/chest_xray --masks data/lung_masks

A U-Net of depthwise-separable convolutions (Ronneberger et al. 2015; Howard et al. 2017) with 0.16
million parameters takes the whole image. It gives the share of lung in each cell of a coarse grid, and by
how many quarter turns the image is rotated. The output goes to ``runs/<name>/``. The published run
took 25 minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

from cxr.imaging import preprocess
from cxr.lungs import find_box, upsample
from training.augmentation import Augmentation, move, restyle
from training.flags import add_flags, from_flat, setting, to_flat
from training.masks import load_masked
from training.run_folder import check_run, read_history, write_config

TURNS = 4  # upright, and rotated counterclockwise by 90, 180 and 270 degrees
TURN_WEIGHT = 0.1  # of the loss
WIDTHS = (24, 40, 80, 112, 144)  # channels at a half, a quarter .. a 32nd of the side


@dataclasses.dataclass(frozen=True)
class LungConfig:
    """A training run of the lungs' network. The defaults are those of the published run."""

    name: str = setting("lungs", "the output goes to runs/NAME")
    data: str = setting("data/chest_xray", "the data set: images, or records of training.dataset")
    masks: str = setting("", "the lung masks; lung_masks beside the data set unless given")
    image_size: int = setting(160, "side of the network's input, px")
    film_size: int = setting(224, "side of the image that augmentation crops from, px")
    batch_size: int = setting(32, "images in a batch")
    epochs: int = setting(50, "epochs")
    learning_rate: float = setting(5e-3, "peak learning rate")
    weight_decay: float = setting(1e-4, "weight decay of AdamW")
    turned_share: float = setting(0.3, "share of images that are rotated by 90, 180 or 270 degrees")
    inverted_share: float = setting(0.15, "share of images whose gray levels are inverted")
    shrunk_share: float = setting(0.3, "share of images that are placed in a larger frame of one gray")
    seed: int = setting(0, "seed of the initial weights, the batches and the augmentation")
    augmentation: Augmentation = dataclasses.field(default=Augmentation(band_gains=0.0))


def load_lung_run(run: Path) -> tuple[LungConfig, tf_keras.Model]:
    """A run's configuration, and its network with the best weights.

    Raises:
        FileNotFoundError: if the run is not complete.
    """
    config = from_flat(LungConfig, json.loads((run / "config.json").read_text()))
    if not (run / "best_weights.h5").exists():
        raise FileNotFoundError(f"received {run}, which lacks best_weights.h5")
    model = build_lung_model(config.image_size)
    model.load_weights(run / "best_weights.h5")
    return config, model


def build_lung_model(image_size: int = 160) -> tf_keras.Model:
    """The network, from float32 (B, S, S, 1) of 0..255 to ``lungs`` float32 (B, S/4, S/4, 1), log-odds of
    lung in each cell, and ``turn`` (B, 4), the log-odds of each number of quarter turns."""
    image = layers.Input((image_size, image_size, 1), name="image")
    x = layers.Rescaling(1.0 / 127.5, -1.0)(image)
    x = _normalize(layers.Conv2D(WIDTHS[0], 3, 2, "same", use_bias=False, name="stem")(x), "stem")
    skips = []
    for i, width in enumerate(WIDTHS[1:]):
        x = _separable(x, width, 2, f"down{i}a")
        x = _separable(x, width, 1, f"down{i}b")
        skips.append(x)
    x = _separable(x, WIDTHS[-1], 1, "bottom", kernel=5)
    turn = layers.Dense(TURNS, name="turn")(layers.GlobalAveragePooling2D(name="pooled")(x))
    for i, skip in reversed(list(enumerate(skips[:-1]))):
        width = skip.shape[-1]
        x = layers.Conv2D(width, 1, use_bias=False, name=f"up{i}_narrow")(x)
        x = layers.UpSampling2D(interpolation="bilinear", name=f"up{i}_resize")(_normalize(x, f"up{i}"))
        x = _separable(layers.Add(name=f"up{i}_add")([x, skip]), width, 1, f"up{i}a")
    x = _separable(x, WIDTHS[1], 1, "last", kernel=5)
    lungs = layers.Conv2D(1, 1, name="lungs")(x)
    return tf_keras.Model(image, {"lungs": lungs, "turn": turn}, name="lungs")


def _normalize(x: tf.Tensor, name: str) -> tf.Tensor:
    return layers.ReLU(6.0, name=f"{name}_relu")(
        layers.BatchNormalization(momentum=0.97, name=f"{name}_bn")(x)
    )


def _separable(x: tf.Tensor, width: int, stride: int, name: str, kernel: int = 3) -> tf.Tensor:
    x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depthwise")(x)
    x = _normalize(x, f"{name}_depthwise")
    return _normalize(layers.Conv2D(width, 1, use_bias=False, name=f"{name}_pointwise")(x), name)


def lung_batches(films: tf.data.Dataset, config: LungConfig, done: int = 0) -> tf.data.Dataset:
    """Endless augmented batches.

    Args:
        films: rows uint8 (F, F, 2), image and mask.
        config: the run.
        done: batches that were drawn before; what follows is augmented by other draws.

    Returns:
        A dataset of images float32 (B, S, S, 1) of 0..255 and two targets: ``lungs`` float32
        (B, S/4, S/4, 1), the share of lung in each cell, and ``turn`` int32 (B,).
    """

    @tf.autograph.experimental.do_not_convert  # it branches with tf.cond; conversion takes seconds
    def to_example(index: tf.Tensor, film: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        seeds = tf.random.split(tf.stack([tf.cast(index, tf.int32), config.seed]), 9)
        pair = move(tf.cast(film, tf.float32) / 255.0, config.image_size, seeds[:2], config.augmentation)
        draws = tf.random.stateless_uniform((7,), seeds[7])
        pair = tf.cond(draws[0] < config.shrunk_share, lambda: _shrink(pair, draws[1:5]), lambda: pair)
        turn = tf.where(draws[5] < config.turned_share, 1 + tf.cast(draws[6] * 3.0, tf.int32), 0)
        pair = tf.image.rot90(pair, turn)
        image, mask = restyle(pair[..., :1], seeds[2:7], config.augmentation), pair[..., 1:]
        inverts = tf.random.stateless_uniform((), seeds[8]) < config.inverted_share
        image = tf.where(inverts, 1.0 - image, image)
        cells = tf.nn.avg_pool2d(mask[tf.newaxis], 4, 4, "VALID")[0]
        return image * 255.0, {"lungs": tf.clip_by_value(cells, 0.0, 1.0), "turn": turn}

    rows = films.shuffle(8192, seed=config.seed + done).repeat().enumerate(done * config.batch_size)
    examples = rows.map(to_example, num_parallel_calls=tf.data.AUTOTUNE)
    return examples.batch(config.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _shrink(pair: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Place an image and its mask, float32 (S, S, 2), in a frame of one gray, at .5 to 1 of the side."""
    side = pair.shape[0]
    inner = tf.cast(side * (0.5 + 0.5 * draws[0]), tf.int32)
    room = tf.cast(side - inner, tf.float32)
    top, left = (tf.cast(draws[i] * room, tf.int32) for i in (1, 2))
    small = tf.image.resize(pair, tf.stack([inner, inner]), antialias=True)
    margins = [[top, side - inner - top], [left, side - inner - left], [0, 0]]
    frame = tf.pad(small - tf.stack([draws[3], 0.0]), margins) + tf.stack([draws[3], 0.0])
    return tf.ensure_shape(frame, pair.shape)


def lung_loss(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy and soft Dice loss (Milletari et al. 2016) of (B, h, w, 1), as float32 (B,)."""
    entropy = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), (1, 2, 3))
    found = tf.sigmoid(logits)
    overlap, total = (tf.reduce_sum(x, (1, 2, 3)) for x in (targets * found, targets + found))
    return entropy + 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)


def prepare(films: np.ndarray, image_size: int) -> np.ndarray:
    """The network's input, uint8 (N, S, S, 1), of images and masks uint8 (N, F, F, 2)."""
    return np.stack([preprocess(film[..., 0], image_size) for film in films])


def predict_masks(model: tf_keras.Model, images: np.ndarray) -> np.ndarray:
    """Shares of lung float32 (N, h, w) in the cells of images uint8 (N, S, S, 1)."""
    logits = model.predict(images.astype(np.float32), verbose=0)["lungs"][..., 0]
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def dice(found: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Dice of found masks float32 (N, h, w) with drawn ones uint8 (N, F, F, 1) of 0..255, as (N,). The
    found ones are upsampled to the size of the drawn ones, and both are cut at one half."""
    scores = []
    for mask, truth in zip(found, drawn[..., 0] > 127, strict=True):
        large = upsample(mask, truth.shape) >= 0.5
        scores.append(2.0 * np.sum(large & truth) / max(np.sum(large) + np.sum(truth), 1))
    return np.array(scores)


def box_overlap(found: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Intersection over union (N,) of the boxes of masks (N, h, w) and (N, H, W)."""
    return np.array([_overlap(find_box(a), find_box(b)) for a, b in zip(found, drawn, strict=True)])


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width, height = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0.0) for i in (0, 1))
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)]
    return width * height / max(sum(areas) - width * height, 1e-9)


class _MeasureDice(tf_keras.callbacks.Callback):
    def __init__(self, images: np.ndarray, masks: np.ndarray) -> None:
        super().__init__()
        self.images, self.masks = images, masks

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        logs["val_dice"] = float(dice(predict_masks(self.model, self.images), self.masks).mean())


def train_lungs(config: LungConfig, runs: Path = Path("runs"), resume: bool = False) -> Path:
    """Train, and keep the weights of the epoch with the best Dice on validation patients.

    Returns:
        ``runs/<name>``, with best_weights.h5, metrics.json, history.csv and config.json.

    Raises:
        ValueError: as ``training.train.train``, or if the masks are missing.
    """
    run = runs / config.name
    check_run(run, to_flat(config), resume)
    tf_keras.utils.set_random_seed(config.seed)
    pairs = load_masked(config.data, config.masks, "train", config.film_size).images
    for pair in pairs:  # the network sees whole images, stretched
        pair[..., :1] = preprocess(pair[..., 0], config.film_size)
    validation = load_masked(config.data, config.masks, "val", config.film_size).images
    images, drawn = prepare(validation, config.image_size), validation[..., 1:]
    steps = max(len(pairs) // config.batch_size, 1)
    model = build_lung_model(config.image_size)
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        config.learning_rate / 10,
        steps * config.epochs - steps,
        alpha=0.01,
        warmup_target=config.learning_rate,
        warmup_steps=steps,
    )
    crossentropy = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        tf_keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay),
        loss={"lungs": lung_loss, "turn": crossentropy},
        loss_weights={"turn": TURN_WEIGHT},
    )
    write_config(run, to_flat(config))
    # a kill between a row of the history and its backup leaves a row that comes again, and later a pair
    earlier = list({row["epoch"]: row for row in read_history(run)}.values())
    best = tf_keras.callbacks.ModelCheckpoint(
        str(run / "best_weights.h5"),
        "val_dice",
        save_best_only=True,
        save_weights_only=True,
        mode="max",
        initial_value_threshold=max((float(row["val_dice"]) for row in earlier), default=None),
    )
    callbacks = [
        _MeasureDice(images, drawn),
        best,
        tf_keras.callbacks.CSVLogger(str(run / "history.csv"), append=resume),
        tf_keras.callbacks.BackupAndRestore(str(run / "backup")),  # last: then the epoch is done
    ]
    if len(earlier) < config.epochs:
        model.fit(
            lung_batches(tf.data.Dataset.from_tensor_slices(pairs), config, len(earlier) * steps),
            steps_per_epoch=steps,
            epochs=config.epochs,
            callbacks=callbacks,
            verbose=2,
        )
    model.load_weights(run / "best_weights.h5")
    found = predict_masks(model, images)
    scores = {"dice": dice(found, drawn), "box_overlap": box_overlap(found, drawn[..., 0] / 255.0)}
    metrics = {name: float(values.mean()) for name, values in scores.items()}
    (run / "metrics.json").write_text(json.dumps(metrics, indent=2))
    print(metrics)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.lungs",
        description="Train the network that finds the lungs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_flags(parser, LungConfig)
    parser.add_argument("--resume", action="store_true", help="continue a stopped run")
    options = vars(parser.parse_args())
    resume = options.pop("resume")
    try:
        print(train_lungs(from_flat(LungConfig, options), resume=resume))
    except ValueError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
