"""Download, describe and prepare the Kermany data set.

Commands::

    python -m training.dataset download --out data
    python -m training.dataset describe --data data/chest_xray --out runs/describe
    python -m training.dataset prepare --data data/chest_xray --out data/records
    python -m training.dataset lungs --annotations all-images-coco.zip --data data/chest_xray
"""

from __future__ import annotations

import argparse
import collections
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from training.coco import draw_masks
from training.masks import masks_beside
from training.names import SPLITS, ImageName, list_films
from training.plots import new_figure, save_figure

KAGGLE_DATASET = "paultimothymooney/chest-xray-pneumonia"


def download(out: Path) -> Path:
    """Fetch the data set from Kaggle into ``out``. Returns the folder that the other commands take."""
    import kagglehub

    return Path(kagglehub.dataset_download(KAGGLE_DATASET, output_dir=str(out))) / "chest_xray"


def describe(data: str | Path, out: str | Path) -> str:
    """Counts of images and patients by split and series, as text; saves a plot of them as
    class_balance.png in ``out``.

    Raises:
        ValueError: if ``data`` holds no image.
    """
    names = list_films(data)
    if not names:
        raise ValueError(f"received {data}, which holds no film")
    by_split = {split: [n for n in names if n.split == split] for split in SPLITS}
    rows = []
    for split, members in by_split.items():
        positive = sum(n.label for n in members)
        series = collections.Counter(n.series for n in members)
        rows.append(
            {
                "split": split,
                "films": len(members),
                "patients": len({n.patient for n in members}),
                "NORMAL": len(members) - positive,
                "PNEUMONIA": positive,
                "share": f"{positive / max(len(members), 1):.1%}",
                "series": ", ".join(f"{name} {count}" for name, count in sorted(series.items())),
            }
        )
    _plot_balance(by_split, Path(out))
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def write_shards(data: str | Path, out: str | Path, shards: int = 8) -> dict[str, int]:
    """Pack a folder of images into TFRecords of the files' own bytes. Returns images per split.

    Raises:
        ValueError: if ``data`` holds no image.
    """
    names = list_films(data)
    if not names:
        raise ValueError(f"received the folder {data}; accepted is one with train/NORMAL/*.jpeg")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split in SPLITS:
        members = [name for name in names if name.split == split]
        counts[split] = len(members)
        for shard in range(shards):
            path = str(out / f"{split}-{shard:05d}-of-{shards:05d}.tfrecord")
            with tf.io.TFRecordWriter(path) as writer:
                for name in members[shard::shards]:
                    feature = {
                        "image": _bytes_feature((Path(data) / name.path).read_bytes()),
                        "path": _bytes_feature(name.path.encode()),
                    }
                    example = tf.train.Example(features=tf.train.Features(feature=feature))
                    writer.write(example.SerializeToString())
    return counts


def _plot_balance(by_split: dict[str, list[ImageName]], out: Path) -> None:
    figure, axes = new_figure("Films by split and series", "", "films")
    bottom = np.zeros(len(by_split))
    for series in sorted({n.series for names in by_split.values() for n in names}):
        counts = [sum(n.series == series for n in names) for names in by_split.values()]
        axes.bar(list(by_split), counts, bottom=bottom, label=series)
        bottom += counts
    axes.legend()
    save_figure(figure, out / "class_balance.png")


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.dataset", description=__doc__.split("\n", maxsplit=1)[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_text, out_text in (
        ("download", "fetch the Kaggle set with kagglehub (1.2 GB, needs internet)", "where to put it"),
        ("describe", "print counts, class balance and patients, and save the plot", "for the plot"),
        ("prepare", "pack the folder of images into sharded TFRecords", "for the records"),
    ):
        command = commands.add_parser(name, help=help_text)
        if name != "download":
            command.add_argument("--data", type=Path, required=True, help="the data set as images")
        command.add_argument("--out", type=Path, required=True, help=f"a folder, {out_text}")
    lungs = commands.add_parser("lungs", help="draw the lung masks of V7's public annotations")
    lungs.add_argument(
        "--annotations",
        type=Path,
        required=True,
        help="all-images-coco.zip of github.com/v7labs/covid-19-xray-dataset, or the .json in it",
    )
    lungs.add_argument("--data", type=Path, required=True, help="the data set as images")
    lungs.add_argument("--out", type=Path, help="for the masks; lung_masks beside the data unless given")
    args = parser.parse_args()
    try:
        if args.command == "download":
            print(download(args.out))
        elif args.command == "describe":
            print(describe(args.data, args.out))
        elif args.command == "lungs":
            out = args.out or masks_beside(args.data)
            print(f"{draw_masks(args.annotations, args.data, out)} masks in {out}")
        else:
            counts = write_shards(args.data, args.out)
            print(", ".join(f"{split} {count} films" for split, count in counts.items()))
    except ValueError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
