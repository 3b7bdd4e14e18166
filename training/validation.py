"""The images of the validation patients, with and without corruption, and a network's scores on them."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
import tf_keras
from sklearn.metrics import log_loss, roc_auc_score

from cxr.imaging import preprocess
from training.augmentation import Augmentation, augment
from training.calibration import calibrate
from training.config import TrainConfig
from training.sources import LabelledImages, load_sizes

# written out in full, so that a change of the recipe does not change what it is measured with
CORRUPTION = Augmentation(
    whole_frame_share=0.3,
    crop_area=0.6,  # the lungs stay in the frame
    rotation_deg=10.0,
    style=1.0,
    convolution_share=0.4,
    border_share=0.0,
    copy_share=0.3,
)


@dataclasses.dataclass(frozen=True)
class Validation:
    """Validation images without corruption, and the same ones corrupted, uint8 (N, S, S, 1)."""

    films: LabelledImages
    corrupted: np.ndarray


def load_validation(config: TrainConfig) -> Validation:
    """Load the images of the validation patients, and corrupt a copy of each before ``preprocess``.

    The corruptions are those that another machine or department causes: exposure, contrast, crop, blur,
    sharpening, texture, resampling, JPEG and rotation. They are drawn with fixed seeds.
    """
    plain, larger = load_sizes(config.data, "val", (config.image_size, config.film_size))
    return Validation(plain, corrupt(larger.images, config.image_size))


def corrupt(images: np.ndarray, size: int, settings: Augmentation = CORRUPTION) -> np.ndarray:
    """Corrupt images uint8 (N, F, F, 1) with fixed seeds. Returns uint8 (N, size, size, 1)."""
    corrupted = []
    for i, image in enumerate(images):
        changed = augment(image, image.shape[0], tf.constant([i, -1]), settings).numpy()
        corrupted.append(preprocess(np.rint(changed[..., 0]).astype(np.uint8), size))
    return np.stack(corrupted)


def predict_logits(model: tf_keras.Model, images: np.ndarray) -> np.ndarray:
    """Logits float64 (N, 2) of images uint8 (N, S, S, 1): pneumonia, and virus given pneumonia."""
    return model.predict(images.astype(np.float32), verbose=0).astype(np.float64)


def validate(model: tf_keras.Model, validation: Validation) -> dict[str, float]:
    """AUROC on the validation patients without and with corruption, and of virus against bacteria.

    ``score``, which decides on stopping and on the best epoch, is the mean of the first two: the AUROC
    without corruption is close to 1 in most epochs and cannot rank them.
    """
    labels, series = validation.films.labels, validation.films.series
    logits = predict_logits(model, validation.films.images)
    corrupted = predict_logits(model, validation.corrupted)
    aurocs = [float(roc_auc_score(labels, z[:, 0])) for z in (logits, corrupted)]
    return {
        "val_loss": float(log_loss(labels, calibrate(logits[:, 0], 1.0, 0.0))),
        "val_auroc": aurocs[0],
        "corrupted_auroc": aurocs[1],
        "cause_auroc": float(roc_auc_score(series[labels == 1] == "virus", logits[labels == 1, 1])),
        "score": float(np.mean(aurocs)),
    }
