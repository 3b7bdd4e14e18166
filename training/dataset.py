"""Films of the Kermany data set as tf.data, from any of three sources, split by patient.

A source is a folder, and what lies in it decides how it is read:

* images: ``{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg``, the layout of Kaggle's chest-xray-pneumonia;
* shards: ``{train,val,test}-00000-of-00008.tfrecord``, as ``prepare`` writes them;
* a pair: ``{train,test}/images.tfrec`` (JPEG bytes) beside ``{train,test}/paths.tfrec`` (path strings),
  as TensorFlow hosts the data set.

Commands::

    python -m training.dataset download --out data
    python -m training.dataset describe --data data/chest_xray --out runs/describe
    python -m training.dataset prepare --data data/chest_xray --out data/records
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import io
import re
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf

from cxr.errors import InvalidImageError
from cxr.imaging import EXTENSIONS, preprocess, read_image

VALIDATION_SHARE = 0.12  # of the training patients
LABELS = ("NORMAL", "PNEUMONIA")
KAGGLE_DATASET = "paultimothymooney/chest-xray-pneumonia"
SPLITS = ("train", "val", "test")
SERIES = ("IM", "NORMAL2-IM", "NORMAL", "bacteria", "virus")

_NAMES = (
    (re.compile(r"person(\d+)_(bacteria|virus)_"), lambda m: (m[2], m[1])),
    (re.compile(r"(NORMAL2-IM|IM)-(\d+)-"), lambda m: (m[1], m[2])),
    (re.compile(r"(BACTERIA|VIRUS)-(\d+)-"), lambda m: (m[1].lower(), m[2])),
    (re.compile(r"(NORMAL)-(\d+)-"), lambda m: (m[1], m[2])),
)


@dataclasses.dataclass(frozen=True)
class Film:
    """What the path of a film tells. ``folder`` is the data set's own split: train, val or test."""

    path: str
    folder: str
    label: int
    series: str  # IM, NORMAL2-IM, NORMAL, bacteria or virus
    patient: str  # series and number: person123_bacteria and person123_virus are two children

    @property
    def split(self) -> str:
        """train, val or test. The official val folder (16 films) is pooled with train, and a patient
        goes to validation by the checksum of its key: no list to keep, the same in every source."""
        if self.folder == "test":
            return "test"
        return "val" if zlib.crc32(self.patient.encode()) % 1000 < VALIDATION_SHARE * 1000 else "train"


@dataclasses.dataclass(frozen=True)
class Films:
    """Films in memory: images uint8 (N, S, S, 1), labels float32 (N,) of 0 and 1, and paths."""

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

    def select(self, chosen: np.ndarray) -> Films:
        """The films of an index or mask (N,)."""
        indices = np.arange(len(self.paths))[chosen]
        return Films(self.images[indices], self.labels[indices], [self.paths[i] for i in indices])


def parse_path(path: str) -> Film:
    """Read split, label and patient off a path that ends in ``<folder>/<label>/<file>``.

    Raises:
        ValueError: if the path or the file name does not follow the data set's scheme.
    """
    parts = str(path).replace("\\", "/").split("/")
    if len(parts) >= 3 and parts[-2] in LABELS and parts[-3] in SPLITS:
        for pattern, key in _NAMES:
            if match := pattern.match(parts[-1]):
                series, number = key(match)
                return Film(
                    path="/".join(parts[-3:]),
                    folder=parts[-3],
                    label=LABELS.index(parts[-2]),
                    series=series,
                    patient=f"{series}-{int(number)}",
                )
    raise ValueError(
        f"received the path {path!r}; accepted is {{train,val,test}}/{{NORMAL,PNEUMONIA}}/FILE with FILE "
        "like person1_bacteria_1.jpeg, IM-0115-0001.jpeg or NORMAL2-IM-0999-0001.jpeg"
    )


def load_split(data: str | Path, split: str, size: int) -> tf.data.Dataset:
    """The films of one split, unaugmented, in a fixed order, decoded once and kept in memory.

    Args:
        data: a folder in one of the three layouts above.
        split: train, val (both of the official training films, by patient) or test.
        size: side that ``cxr.imaging.preprocess`` brings the films to, px.

    Returns:
        A dataset of ``{"image": uint8 (size, size, 1), "label": float32 (), "viral": float32 (),
        "path": string ()}`` with known cardinality; ``viral`` is 1 for pneumonia by a virus.

    Raises:
        ValueError: if the folder has none of the three layouts, holds no film of the split, or has a
            film that cannot be read.
    """
    if split not in SPLITS:
        raise ValueError(f"received the split {split!r}; accepted are {', '.join(SPLITS)}")
    data = Path(data)
    if any(data.glob("*-of-*.tfrecord")):
        encoded = _from_shards(data, split)
    elif any(data.glob("*/paths.tfrec")):
        encoded = _from_pairs(data, split)
    elif films := list_films(data):
        encoded = _from_images(data, [film.path for film in films if film.split == split])
    else:
        raise ValueError(
            f"received the folder {data}; accepted is one with train/NORMAL and train/PNEUMONIA, "
            "with TFRecord shards of `prepare`, or with train/images.tfrec beside train/paths.tfrec"
        )

    problems = []

    def decode(file: bytes, path: bytes) -> tuple[np.ndarray, np.float32, np.float32, bytes]:
        film = parse_path(path.decode())
        try:
            pixels = read_image(io.BytesIO(file))
        except InvalidImageError as error:
            problems.append(f"{film.path}: {error}")
            raise
        viral = np.float32(film.series == "virus")
        return preprocess(pixels, size), np.float32(film.label), viral, film.path.encode()

    def to_row(file: tf.Tensor, path: tf.Tensor) -> dict[str, tf.Tensor]:
        types = (tf.uint8, tf.float32, tf.float32, tf.string)
        image, label, viral, name = tf.numpy_function(decode, [file, path], types)
        return {
            "image": tf.ensure_shape(image, (size, size, 1)),
            "label": tf.ensure_shape(label, ()),
            "viral": tf.ensure_shape(viral, ()),
            "path": tf.ensure_shape(name, ()),
        }

    rows = encoded.map(to_row, num_parallel_calls=tf.data.AUTOTUNE).cache()
    try:
        count = int(rows.reduce(np.int64(0), lambda n, _: n + 1))  # fills the cache
    except tf.errors.OpError as error:
        raise ValueError(problems[0] if problems else str(error)) from error
    if count == 0:
        raise ValueError(f"received {data}, which holds no film of the split {split!r}")
    return rows.apply(tf.data.experimental.assert_cardinality(count))


def list_films(data: str | Path) -> list[Film]:
    """Every film of a folder of images, sorted by path."""
    data = Path(data)
    paths = sorted(
        p for p in data.glob("*/*/*") if p.suffix.lower() in EXTENSIONS and p.parts[-2] in LABELS
    )
    return [parse_path(p.as_posix()) for p in paths if p.parts[-3] in SPLITS]


def list_labelled(folder: Path, split: str) -> list[tuple[Path, int, str]]:
    """Path, label and patient of each film in ``folder``.

    Args:
        folder: ``{NORMAL,PNEUMONIA}/<patient>_<image>.*``, of which all films are taken, or the data
            set's own layout, of which ``split`` is.
        split: train, val or test.

    Raises:
        ValueError: if there is no film.
    """
    if any((folder / label).is_dir() for label in LABELS):
        paths = [(path, i) for i, label in enumerate(LABELS) for path in (folder / label).glob("*")]
        found = [(path, i, path.stem.split("_")[0]) for path, i in sorted(paths)]
    else:
        films = [film for film in list_films(folder) if film.split == split]
        found = [(folder / film.path, film.label, film.patient) for film in films]
    if not found:
        raise ValueError(f"received {folder}, which holds no film in NORMAL or PNEUMONIA")
    return found


def load_films(data: str | Path, split: str, size: int) -> Films:
    """A split in memory. Arguments and errors as ``load_split``."""
    rows = list(load_split(data, split, size).as_numpy_iterator())
    return Films(
        images=np.stack([row["image"] for row in rows]),
        labels=np.array([row["label"] for row in rows]),
        paths=[row["path"].decode() for row in rows],
    )


def write_shards(data: str | Path, out: str | Path, shards: int = 8) -> dict[str, int]:
    """Pack a folder of images into TFRecords of the files' own bytes. Returns films per split."""
    films = list_films(data)
    if not films:
        raise ValueError(f"received the folder {data}; accepted is one with train/NORMAL/*.jpeg")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split in SPLITS:
        members = [film for film in films if film.split == split]
        counts[split] = len(members)
        for shard in range(shards):
            name = str(out / f"{split}-{shard:05d}-of-{shards:05d}.tfrecord")
            with tf.io.TFRecordWriter(name) as writer:
                for film in members[shard::shards]:
                    feature = {
                        "image": _bytes_feature((Path(data) / film.path).read_bytes()),
                        "path": _bytes_feature(film.path.encode()),
                    }
                    example = tf.train.Example(features=tf.train.Features(feature=feature))
                    writer.write(example.SerializeToString())
    return counts


def describe(data: str | Path, out: str | Path) -> str:
    """Counts of films and patients by split and series, as text; saves the same as class_balance.png."""
    films = list_films(data)
    if not films:
        raise ValueError(f"received {data}, which holds no film")
    by_split = {s: [f for f in films if f.split == s] for s in SPLITS}
    lines = [f"{'split':8}{'films':>8}{'patients':>10}{'NORMAL':>9}{'PNEUMONIA':>11}{'share':>8}  series"]
    for split, members in by_split.items():
        positive = sum(f.label for f in members)
        series = collections.Counter(f.series for f in members)
        lines.append(
            f"{split:8}{len(members):8}{len({f.patient for f in members}):10}"
            f"{len(members) - positive:9}{positive:11}{positive / max(len(members), 1):8.1%}  "
            + ", ".join(f"{name} {count}" for name, count in sorted(series.items()))
        )
    _plot_balance(by_split, Path(out))
    return "\n".join(lines)


def _plot_balance(by_split: dict[str, list[Film]], out: Path) -> None:
    from training.plots import new_figure, save_figure

    figure, axes = new_figure("Films by split and series", "", "films")
    bottom = np.zeros(len(by_split))
    for series in sorted({f.series for films in by_split.values() for f in films}):
        counts = [sum(f.series == series for f in films) for films in by_split.values()]
        axes.bar(list(by_split), counts, bottom=bottom, label=series)
        bottom += counts
    axes.legend()
    save_figure(figure, out / "class_balance.png")


# Each source as a dataset of (encoded file, path), strings both.


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


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _download(out: Path) -> Path:
    import kagglehub

    return Path(kagglehub.dataset_download(KAGGLE_DATASET, output_dir=str(out))) / "chest_xray"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.dataset", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_text in (
        ("download", "fetch the Kaggle set with kagglehub (1.2 GB, needs internet)"),
        ("describe", "print counts, class balance and patients, and save the plot"),
        ("prepare", "pack the folder of images into sharded TFRecords"),
    ):
        command = commands.add_parser(name, help=help_text)
        if name != "download":
            command.add_argument("--data", type=Path, required=True)
        command.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        if args.command == "download":
            print(_download(args.out))
        elif args.command == "describe":
            print(describe(args.data, args.out))
        else:
            counts = write_shards(args.data, args.out)
            print(", ".join(f"{split} {count} films" for split, count in counts.items()))
    except ValueError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
