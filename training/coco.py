"""Lung masks from the public annotations of v7labs/covid-19-xray-dataset (CC BY 4.0), in COCO's format.

The annotated images include those of Kermany et al., but under other names. An image is recognized by its
original size, and among images of one size by its content: lungs are darker than what surrounds them.
"""

from __future__ import annotations

import collections
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment

from cxr.imaging import preprocess, read_image
from training.masks import find_mask
from training.names import list_films

SIZE = 224  # px, side of a mask
LUNG = 0  # category_id; 1 is Ignore
MIN_CONTRAST = 8.0  # gray levels by which lungs must be darker than their surroundings


def draw_masks(annotations: Path, data: str | Path, out: Path) -> int:
    """Write a mask for each image of the data set that the annotations include.

    Args:
        annotations: ``all-images-coco.zip``, or the JSON file in it.
        data: the data set as images of their original size.
        out: a folder for the masks, PNG of one bit and 224 x 224 px under the paths of the images.

    Returns:
        The number of masks.

    Raises:
        ValueError: if the annotations or the images cannot be used, or if no image is in the annotations.
    """
    annotated = _read(annotations)
    names = list_films(data)
    if not names:
        raise ValueError(f"received the folder {data}; accepted is one with train/NORMAL/*.jpeg")
    images_of_size = collections.defaultdict(list)
    for name in names:
        with Image.open(Path(data) / name.path) as image:
            images_of_size[image.size].append(name.path)
    masks_of_size = collections.defaultdict(list)
    for size, polygons in annotated:
        masks_of_size[size].append(_draw(polygons, size))
    count = 0
    for size, paths in images_of_size.items():
        masks = masks_of_size[size]
        if not masks:
            continue
        images = [preprocess(read_image(Path(data) / path), SIZE)[..., 0] for path in paths]
        for i, j in _pair(images, masks):
            target = find_mask(out, paths[i])
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(masks[j]).convert("1").save(target)
            count += 1
    if not count:
        raise ValueError(
            f"received {annotations}, which has none of the {len(names)} images of {data}; accepted are "
            "the annotations of v7labs/covid-19-xray-dataset, with images of their original size"
        )
    return count


def _read(annotations: Path) -> list[tuple[tuple[int, int], list[list[float]]]]:
    """Width and height of each image that has lungs, and their polygons."""
    try:
        if zipfile.is_zipfile(annotations):
            with zipfile.ZipFile(annotations) as archive:
                (member,) = (n for n in archive.namelist() if n.endswith(".json") and "MACOSX" not in n)
                values = json.loads(archive.read(member))
        else:
            values = json.loads(annotations.read_bytes())
        polygons: dict[Any, list[list[float]]] = collections.defaultdict(list)
        for entry in values["annotations"]:
            if entry["category_id"] == LUNG:
                polygons[entry["image_id"]] += entry["segmentation"]
        return [
            ((int(image["width"]), int(image["height"])), polygons[image["id"]])
            for image in values["images"]
            if polygons[image["id"]]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"received {annotations}, which cannot be read ({type(error).__name__}: {error}); accepted "
            "is all-images-coco.zip of v7labs/covid-19-xray-dataset"
        ) from error


def _draw(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """Polygons [x0, y0, x1, y1, ..] in pixels of the image, as uint8 (224, 224) of 0 and 255."""
    mask = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(mask)
    for polygon in polygons:
        points = np.reshape(polygon, (-1, 2)) * (SIZE / np.array(size))
        draw.polygon([tuple(point) for point in points], fill=255)
    return np.asarray(mask)


def _pair(images: list[np.ndarray], masks: list[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs of images and masks whose lungs are darkest together, and dark enough."""
    contrast = np.array([[_contrast(image, mask) for mask in masks] for image in images])
    pairs = zip(*linear_sum_assignment(contrast, maximize=True), strict=True)
    return [(i, j) for i, j in pairs if contrast[i, j] >= MIN_CONTRAST]


def _contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """Gray levels by which the lungs are darker than what lies within their box, beside them."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not rows.size:
        return 0.0
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    lung = mask[box] > 0
    if lung.all():
        return 0.0
    return float(image[box][~lung].mean() - image[box][lung].mean())
