"""What the file names of the Kermany data set say: split, label, series and patient."""

from __future__ import annotations

import dataclasses
import re
import zlib
from pathlib import Path

from cxr.imaging import EXTENSIONS

VALIDATION_SHARE = 0.12  # of the training patients
LABELS = ("NORMAL", "PNEUMONIA")
SPLITS = ("train", "val", "test")
SERIES = ("IM", "NORMAL2-IM", "NORMAL", "bacteria", "virus")

_NAMES = (
    (re.compile(r"person(\d+)_(bacteria|virus)_"), lambda m: (m[2], m[1])),
    (re.compile(r"(NORMAL2-IM|IM)-(\d+)-"), lambda m: (m[1], m[2])),
    (re.compile(r"(BACTERIA|VIRUS)-(\d+)-"), lambda m: (m[1].lower(), m[2])),
    (re.compile(r"(NORMAL)-(\d+)-"), lambda m: (m[1], m[2])),
)


@dataclasses.dataclass(frozen=True)
class ImageName:
    """What the path of an image says. ``folder`` is the data set's own split: train, val or test."""

    path: str
    folder: str
    label: int
    series: str  # IM, NORMAL2-IM, NORMAL, bacteria or virus
    patient: str  # series and number: person123_bacteria and person123_virus are two children

    @property
    def split(self) -> str:
        """train, val or test. The official val folder (16 images) is pooled with train, and a checksum
        of the patient's key chooses the validation patients. This needs no list, and every source
        gives the same split."""
        if self.folder == "test":
            return "test"
        return "val" if zlib.crc32(self.patient.encode()) % 1000 < VALIDATION_SHARE * 1000 else "train"


def parse_path(path: str) -> ImageName:
    """Read split, label and patient from a path that ends in ``<folder>/<label>/<file>``.

    Raises:
        ValueError: if the path or the file name does not follow the data set's scheme.
    """
    parts = str(path).replace("\\", "/").split("/")
    if len(parts) >= 3 and parts[-2] in LABELS and parts[-3] in SPLITS:
        for pattern, key in _NAMES:
            if match := pattern.match(parts[-1]):
                series, number = key(match)
                return ImageName(
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


def list_films(data: str | Path) -> list[ImageName]:
    """Every image of a folder in the data set's own layout, sorted by path."""
    data = Path(data)
    paths = sorted(
        p for p in data.glob("*/*/*") if p.suffix.lower() in EXTENSIONS and p.parts[-2] in LABELS
    )
    return [parse_path(p.as_posix()) for p in paths if p.parts[-3] in SPLITS]


def list_labelled(folder: Path, split: str) -> list[tuple[Path, int, str]]:
    """Path, label and patient of each image in ``folder``.

    Args:
        folder: either ``{NORMAL,PNEUMONIA}/<patient>_<image>.*``, which is listed in full, or the data
            set's own layout, of which ``split`` is listed.
        split: train, val or test.

    Raises:
        ValueError: if there is no image.
    """
    if any((folder / label).is_dir() for label in LABELS):
        paths = [(path, i) for i, label in enumerate(LABELS) for path in (folder / label).glob("*")]
        films = sorted((path, i) for path, i in paths if path.suffix.lower() in EXTENSIONS)
        found = [(path, i, path.stem.split("_")[0]) for path, i in films]
    else:
        names = [name for name in list_films(folder) if name.split == split]
        found = [(folder / name.path, name.label, name.patient) for name in names]
    if not found:
        raise ValueError(f"received {folder}, which holds no film in NORMAL or PNEUMONIA")
    return found
