"""Images that may be published: composites of several children's images, so that none shows a patient.

The nearest images of the same class, each of another child, are aligned to a seed image and averaged. An
unsharp mask restores the edges that averaging softens.

Commands (for the page's samples, and for the images that the shipped models are tested on)::

    python -m training.composites samples --data data/chest_xray --out streamlit_app/samples
    python -m training.composites tests --data data/chest_xray --out tests/composites
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cxr.imaging import preprocess, read_image
from training.names import ImageName, list_films

NEIGHBORS = 8
THUMBNAIL = 32  # px, what similarity is measured on
SIZE = 448  # px, of the composite
# The size of the files of each set in px, and the seed images, all from the training split. The seeds of
# the samples were chosen by eye: clear anatomy, no doubled edges. Those of the tests are three random
# images of each series.
SETS = {
    "samples": (
        SIZE,
        {
            "normal_1": "train/NORMAL/IM-0434-0001.jpeg",
            "normal_2": "train/NORMAL/NORMAL2-IM-0497-0001.jpeg",
            "pneumonia_1": "train/PNEUMONIA/person688_bacteria_2584.jpeg",
            "pneumonia_2": "train/PNEUMONIA/person849_bacteria_2770.jpeg",
        },
    ),
    "tests": (
        SIZE // 2,
        {
            "normal_1": "train/NORMAL/IM-0273-0001.jpeg",
            "normal_2": "train/NORMAL/IM-0331-0001.jpeg",
            "normal_3": "train/NORMAL/IM-0440-0001.jpeg",
            "normal_4": "train/NORMAL/NORMAL2-IM-0383-0001.jpeg",
            "normal_5": "train/NORMAL/NORMAL2-IM-0384-0001.jpeg",
            "normal_6": "train/NORMAL/NORMAL2-IM-1102-0001-0002.jpeg",
            "pneumonia_1": "train/PNEUMONIA/person1071_bacteria_3005.jpeg",
            "pneumonia_2": "train/PNEUMONIA/person1305_bacteria_3271.jpeg",
            "pneumonia_3": "train/PNEUMONIA/person1585_bacteria_4155.jpeg",
            "pneumonia_4": "train/PNEUMONIA/person1242_virus_2108.jpeg",
            "pneumonia_5": "train/PNEUMONIA/person1284_virus_2207.jpeg",
            "pneumonia_6": "train/PNEUMONIA/person397_virus_790.jpeg",
        },
    ),
}


def compose(seed: ImageName, films: list[ImageName], data: Path) -> np.ndarray:
    """The composite of ``seed`` with its nearest films of the same class.

    Args:
        seed: the image that gives the pose. It has the same weight as each neighbor.
        films: candidates. Those of another class or of the same patient are left out.
        data: the folder that the paths are relative to.

    Returns:
        uint8 (SIZE, SIZE).
    """
    members = [f for f in films if f.label == seed.label and f.split == "train"]
    members = [f for f in members if f.patient != seed.patient]
    target = _load(seed, data, SIZE)
    reference = _load(seed, data, THUMBNAIL)
    distances = [_distance(_load(f, data, THUMBNAIL), reference) for f in members]
    aligned, patients = [target], set()
    for index in np.argsort(distances):
        if len(aligned) > NEIGHBORS:
            break
        if members[index].patient in patients:
            continue
        film = _align(_load(members[index], data, SIZE), target)
        if film is not None:
            aligned.append(film)
            patients.add(members[index].patient)
    mean = np.mean(
        aligned, axis=0
    )  # a median would remove the ghosts of side markers, but it adds false texture
    sharp = mean + 1.2 * (mean - cv2.GaussianBlur(mean, (0, 0), 3.0))
    return np.clip(np.rint(sharp), 0, 255).astype(np.uint8)


def _load(film: ImageName, data: Path, size: int) -> np.ndarray:
    return preprocess(read_image(data / film.path), size)[..., 0].astype(np.float32)


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return 1.0 - float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def _align(film: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """Warp ``film`` onto ``target`` by the affine map of largest correlation (Evangelidis and Psarakis
    2008). Returns None where it does not converge."""
    warp = np.eye(2, 3, dtype=np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-5)
    try:
        _, warp = cv2.findTransformECC(target, film, warp, cv2.MOTION_AFFINE, criteria, None, 9)
    except cv2.error:
        return None
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = target.shape[::-1]
    return cv2.warpAffine(film, warp, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.composites", description=__doc__.split("\n")[0]
    )
    parser.add_argument("set", choices=SETS, help="which composites to make")
    parser.add_argument("--data", type=Path, required=True, help="a folder of images")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the composites")
    args = parser.parse_args()
    films = {film.path: film for film in list_films(args.data)}
    args.out.mkdir(parents=True, exist_ok=True)
    size, seeds = SETS[args.set]
    for name, path in seeds.items():
        if path not in films:
            parser.exit(1, f"received {args.data}, which lacks {path}\n")
        composite = Image.fromarray(compose(films[path], list(films.values()), args.data))
        composite.resize((size, size), Image.Resampling.LANCZOS).save(
            args.out / f"{name}.png", optimize=True
        )
        print(args.out / f"{name}.png")


if __name__ == "__main__":
    main()
