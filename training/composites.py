"""Images that may be published: composites of several children's images, so that none shows a patient.

The nearest images of the same class, each of another child, are aligned to a seed image: first the boxes
of their lungs, then every place by optical flow (Kroeger et al. 2016). The mean of the middle values
leaves out side markers, which only one of them has at a place.

Commands, for the page's samples and for the images that the shipped models are tested on::

    python -m training.composites samples --data data/chest_xray --out streamlit_app/samples
    python -m training.composites tests --data data/chest_xray --out tests/composites
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cxr.imaging import Box, preprocess, read_image
from cxr.lungs import find_box
from training.masks import find_mask, load_masks, masks_beside
from training.names import ImageName, list_films

NEIGHBORS = 8
LEFT_OUT = 2  # of the nine values at a place, the lowest and the highest
FILM_PX = 224
FLOW_BLUR = 3.0  # px
THUMBNAIL = 32  # px, what similarity is measured on
SIZE = 448  # px, of the composite
UNFAMILIAR_DEG = 20.0  # by which the unfamiliar sample is rotated, counterclockwise
# The size of the files of each set in px, and the seed images, all from the training split. The seeds of
# the samples were chosen by eye: clear anatomy, and one that the shipped models are uncertain of. Those
# of the tests are three images of each series that they are certain of.
SETS = {
    "samples": (
        SIZE,
        {
            "normal_1": "train/NORMAL/IM-0434-0001.jpeg",
            "normal_2": "train/NORMAL/NORMAL2-IM-0497-0001.jpeg",
            "pneumonia_1": "train/PNEUMONIA/person688_bacteria_2584.jpeg",
            "pneumonia_2": "train/PNEUMONIA/person1068_bacteria_3002.jpeg",
            "uncertain": "train/PNEUMONIA/person1554_virus_2696.jpeg",
            "unfamiliar": "train/NORMAL/NORMAL2-IM-0497-0001.jpeg",
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
            "pneumonia_5": "train/PNEUMONIA/person113_virus_216.jpeg",
            "pneumonia_6": "train/PNEUMONIA/person929_virus_1589.jpeg",
        },
    ),
}


def compose(seed: ImageName, films: list[ImageName], data: Path, masks: Path) -> np.ndarray:
    """The composite of ``seed`` with its nearest films of the same class.

    Args:
        seed: the image that gives the pose. It has the same weight as each neighbor.
        films: candidates. Those of another class or of the same patient are left out.
        data: the folder that the paths are relative to.
        masks: the folder of their lung masks.

    Returns:
        uint8 (SIZE, SIZE).

    Raises:
        ValueError: if a mask is missing.
    """
    members = [f for f in films if f.label == seed.label and f.split == "train"]
    members = [f for f in members if f.patient != seed.patient and find_mask(masks, f.path).exists()]
    target, target_box = _load(seed, data, masks)
    reference = _shrink_lungs(target, target_box)
    loaded = [_load(f, data, masks) for f in members]
    likeness = [np.corrcoef(_shrink_lungs(*film).ravel(), reference.ravel())[0, 1] for film in loaded]
    aligned, patients = [target], set()
    for index in np.argsort(likeness)[::-1]:
        if len(aligned) > NEIGHBORS:
            break
        if members[index].patient not in patients:
            aligned.append(_align(*loaded[index], target, target_box))
            patients.add(members[index].patient)
    middle = np.sort(aligned, axis=0)[LEFT_OUT:-LEFT_OUT].mean(axis=0)
    sharp = middle + 0.6 * (middle - cv2.GaussianBlur(middle, (0, 0), 2.0))
    large = cv2.resize(sharp.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.rint(large), 0, 255).astype(np.uint8)


@functools.cache  # every seed is compared with the same films
def _load(film: ImageName, data: Path, masks: Path) -> tuple[np.ndarray, Box]:
    image = preprocess(read_image(data / film.path), FILM_PX)[..., 0]
    return image, find_box(load_masks(masks, [film.path], FILM_PX)[0, ..., 0])


def _shrink_lungs(image: np.ndarray, box: Box) -> np.ndarray:
    """The box of the lungs, small and without its outer gray levels, float32 (32, 32)."""
    return preprocess(image, THUMBNAIL, box)[..., 0].astype(np.float32)


def _align(image: np.ndarray, box: Box, target: np.ndarray, target_box: Box) -> np.ndarray:
    """Bring an image to the box of the target, and then each of its places to the target's."""
    side = len(target)
    scale = [(target_box[i + 2] - target_box[i]) / (box[i + 2] - box[i]) for i in (0, 1)]
    shift = [side * (target_box[i] - scale[i] * box[i]) for i in (0, 1)]
    affine = np.float32([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    moved = cv2.warpAffine(image, affine, (side, side), borderMode=cv2.BORDER_REPLICATE)
    even = cv2.createCLAHE(4.0, (4, 4))  # the flow follows ribs, not exposure
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(
        even.apply(target), even.apply(moved), None
    )
    flow = cv2.GaussianBlur(flow, (0, 0), FLOW_BLUR)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    return cv2.remap(
        moved, x + flow[..., 0], y + flow[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )


def draw_hand(side: int) -> np.ndarray:
    """A drawing of a hand's radiograph, uint8 (side, side): no chest, so it must be refused."""
    hand = np.zeros((448, 448), np.float32)
    cv2.ellipse(hand, (224, 310), (88, 100), 0, 0, 360, 70, -1)
    bones = np.zeros_like(hand)
    fingers = np.array(  # knuckle and tip
        [
            [(150, 260), (92, 120)],
            [(192, 235), (174, 60)],
            [(230, 232), (238, 40)],
            [(268, 242), (304, 72)],
            [(300, 320), (392, 220)],
        ]
    )
    for knuckle, tip in fingers:
        cv2.line(hand, knuckle.tolist(), tip.tolist(), 70, 50)
        for i in range(3):  # bones with gaps between them
            start, end = (knuckle + np.multiply((i / 3 + part), tip - knuckle) for part in (0.0, 0.22))
            cv2.line(bones, start.astype(int).tolist(), end.astype(int).tolist(), 130, 18 - 4 * i)
        wrist = (224 + (int(knuckle[0]) - 224) // 3, 380)
        cv2.line(bones, wrist, np.add(knuckle, (0, 10)).tolist(), 110, 14)
    image = cv2.GaussianBlur(hand, (0, 0), 6.0) + cv2.GaussianBlur(bones, (0, 0), 3.0) + 8.0
    return cv2.resize(np.clip(image, 0, 255).astype(np.uint8), (side, side), interpolation=cv2.INTER_AREA)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.composites", description=__doc__.split("\n")[0]
    )
    parser.add_argument("set", choices=SETS, help="which composites to make")
    parser.add_argument("--data", type=Path, required=True, help="a folder of images")
    parser.add_argument("--masks", type=Path, help="lung masks; lung_masks beside the data unless given")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the composites")
    args = parser.parse_args()
    films = {film.path: film for film in list_films(args.data)}
    masks = args.masks or masks_beside(args.data)
    args.out.mkdir(parents=True, exist_ok=True)
    size, seeds = SETS[args.set]
    for name, path in seeds.items():
        if path not in films:
            parser.exit(1, f"received {args.data}, which lacks {path}\n")
        try:
            pixels = compose(films[path], list(films.values()), args.data, masks)
        except ValueError as error:  # a mask is missing
            parser.exit(1, f"{error}\n")
        composite = Image.fromarray(pixels)
        if name == "unfamiliar":
            composite = composite.rotate(UNFAMILIAR_DEG, Image.Resampling.BICUBIC)
        composite.resize((size, size), Image.Resampling.LANCZOS).save(
            args.out / f"{name}.png", optimize=True
        )
        print(args.out / f"{name}.png")
    if args.set == "samples":
        Image.fromarray(draw_hand(size)).save(args.out / "refused.png", optimize=True)


if __name__ == "__main__":
    main()
