"""The Kermany data set as tf.data or in memory, from any of three sources, split by patient.

A source is a folder, and its content decides how it is read:

* images: ``{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg``, the layout of Kaggle's chest-xray-pneumonia;
* shards: ``{train,val,test}-00000-of-00008.tfrecord``, as ``training.dataset prepare`` writes them;
* a pair: ``{train,test}/images.tfrec`` (JPEG bytes) beside ``{train,test}/paths.tfrec`` (path strings),
  as TensorFlow hosts the data set.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from cxr.decoding import share_pool
from cxr.errors import InvalidImageError
from cxr.imaging import cut_out, read_image
from training.names import SPLITS, list_films, parse_path


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Images in memory: uint8 (N, S, S, C), their labels float32 (N,) of 0 and 1, and their paths."""

    images: np.ndarray
    labels: np.ndarray
    paths: list[str]

    @property
    def patients(self) -> list[str]:
        """Patient keys."""
        return [parse_path(path).patient for path in self.paths]

    @property
    def series(self) -> np.ndarray:
        """Series of str (N,); ``virus`` and ``bacteria`` are the causes of pneumonia."""
        return np.array([parse_path(path).series for path in self.paths])

    def select(self, chosen: np.ndarray) -> LabelledImages:
        """The images of an index or mask (N,)."""
        indices = np.arange(len(self.paths))[chosen]
        return LabelledImages(
            self.images[indices], self.labels[indices], [self.paths[i] for i in indices]
        )

    def to_dataset(self) -> tf.data.Dataset:
        """The rows of ``load_split``."""
        rows = {
            "image": self.images,
            "label": self.labels,
            "viral": (self.series == "virus").astype(np.float32),
            "path": self.paths,
        }
        return tf.data.Dataset.from_tensor_slices(rows)


def load_split(data: str | Path, split: str, size: int) -> tf.data.Dataset:
    """The images of one split, unaugmented, in a fixed order, decoded once and kept in memory.

    Args:
        data: a folder in one of the three layouts above.
        split: train, val (both from the official training images, by patient) or test.
        size: side of the squares that the images are resized to, px. Their gray levels stay as in
            the files, because ``preprocess`` stretches those of the part that a network sees.

    Returns:
        A dataset of ``{"image": uint8 (size, size, 1), "label": float32 (), "viral": float32 (),
        "path": string ()}`` with known cardinality; ``viral`` is 1 for viral pneumonia.

    Raises:
        ValueError: if the folder has none of the three layouts, holds no image of the split, or has an
            image that cannot be read.
    """
    _decode_on_all_cores()
    problems = []

    def decode(file: bytes, path: bytes) -> tuple[np.ndarray, np.float32, np.float32, bytes]:
        name = parse_path(path.decode())
        try:
            pixels = read_image(io.BytesIO(file))
        except InvalidImageError as error:
            problems.append(f"{name.path}: {error}")
            raise
        image = cut_out(pixels, (size, size))[..., np.newaxis]
        return image, np.float32(name.label), np.float32(name.series == "virus"), name.path.encode()

    @tf.autograph.experimental.do_not_convert
    def to_row(file: tf.Tensor, path: tf.Tensor) -> dict[str, tf.Tensor]:
        types = [tf.uint8, tf.float32, tf.float32, tf.string]
        image, label, viral, name = tf.numpy_function(decode, [file, path], types)
        return {
            "image": tf.ensure_shape(image, (size, size, 1)),
            "label": tf.ensure_shape(label, ()),
            "viral": tf.ensure_shape(viral, ()),
            "path": tf.ensure_shape(name, ()),
        }

    rows = _read_files(Path(data), split).map(to_row, num_parallel_calls=tf.data.AUTOTUNE).cache()
    try:
        count = int(rows.reduce(np.int64(0), lambda n, _: n + 1))  # fills the cache
    except tf.errors.OpError as error:
        raise ValueError(problems[0] if problems else str(error)) from error
    if count == 0:
        raise ValueError(f"received {data}, which holds no film of the split {split!r}")
    return rows.apply(tf.data.experimental.assert_cardinality(count))


def load_films(data: str | Path, split: str, size: int) -> LabelledImages:
    """A split in memory. Arguments and errors as ``load_split``."""
    rows = list(load_split(data, split, size).as_numpy_iterator())
    labels = np.array([row["label"] for row in rows])
    return LabelledImages(
        np.stack([row["image"] for row in rows]), labels, [row["path"].decode() for row in rows]
    )


@functools.cache  # the pool stays, because every split would wait for new processes
def _decode_on_all_cores() -> None:
    """Decode one film on each core at once; ``cxr`` decodes two, because a server's memory limits it."""
    share_pool(os.cpu_count() or 1)


def _read_files(data: Path, split: str) -> tf.data.Dataset:
    """A split as a dataset of (encoded file, path), both strings."""
    if split not in SPLITS:
        raise ValueError(f"received the split {split!r}; accepted are {', '.join(SPLITS)}")
    if any(data.glob("*-of-*.tfrecord")):
        return _from_shards(data, split)
    if any(data.glob("*/paths.tfrec")):
        return _from_pairs(data, split)
    if names := list_films(data):
        return _from_images(data, [name.path for name in names if name.split == split])
    raise ValueError(
        f"received the folder {data}; accepted is one with train/NORMAL and train/PNEUMONIA, "
        "with TFRecord shards of `prepare`, or with train/images.tfrec beside train/paths.tfrec"
    )


def _from_images(data: Path, paths: list[str]) -> tf.data.Dataset:
    names = tf.data.Dataset.from_tensor_slices(tf.constant(paths, tf.string))
    return names.map(
        lambda name: (tf.io.read_file(tf.strings.join([str(data), name], "/")), name),
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def _from_pairs(data: Path, split: str) -> tf.data.Dataset:
    folders = [data / f for f in (["test"] if split == "test" else ["train", "val"])]
    folders = [f for f in folders if (f / "paths.tfrec").exists()]
    files = tf.data.TFRecordDataset([str(f / "images.tfrec") for f in folders])
    paths = tf.data.TFRecordDataset([str(f / "paths.tfrec") for f in folders])

    def in_split(file: tf.Tensor, path: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(lambda p: parse_path(p.decode()).split == split, [path], tf.bool)

    return tf.data.Dataset.zip((files, paths)).filter(in_split)


def _from_shards(data: Path, split: str) -> tf.data.Dataset:
    text = tf.io.FixedLenFeature([], tf.string)

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, {"image": text, "path": text})
        return example["image"], example["path"]

    shards = sorted(str(p) for p in data.glob(f"{split}-*-of-*.tfrecord"))
    return tf.data.TFRecordDataset(shards, num_parallel_reads=tf.data.AUTOTUNE).map(parse)
