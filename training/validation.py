"""The images of the validation patients, as they are, corrupted, and with their lungs in another frame,
and a network's scores on them."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
import tf_keras
from sklearn.metrics import log_loss, roc_auc_score

from training.alterations import transplant_all
from training.augmentation import Augmentation, augment
from training.calibration import calibrate
from training.config import TrainConfig
from training.masks import load_masked
from training.sources import LabelledImages
from training.views import view_films

# written out in full, so that a change of the recipe does not change what it is measured with
CORRUPTION = Augmentation(
    whole_frame_share=0.3,
    crop_area=0.6,  # the lungs stay in the frame
    rotation_deg=10.0,
    style=1.0,
    band_gains=0.0,
    convolution_share=0.4,
    border_share=0.0,
    copy_share=0.3,
)


@dataclasses.dataclass(frozen=True)
class Validation:
    """Images and masks uint8 (N, F, F, 2): without change, corrupted, and transplanted."""

    films: LabelledImages
    corrupted: np.ndarray
    transplanted: np.ndarray


def load_validation(config: TrainConfig) -> Validation:
    """Load the images of the validation patients with their masks, and make two altered copies of each.

    The corruptions are those that another machine or department causes: exposure, contrast, crop, blur,
    sharpening, texture, resampling, JPEG and rotation. They are drawn with fixed seeds. Transplanted
    lungs stand in the frame of an image of the other class.
    """
    films = load_masked(config.data, config.masks, "val", config.film_size)
    return Validation(films, corrupt(films.images), transplant_all(films))


def corrupt(images: np.ndarray, settings: Augmentation = CORRUPTION) -> np.ndarray:
    """Corrupt images uint8 (N, F, F, C), with their masks if they have any, with fixed seeds."""
    corrupted = []
    for i, image in enumerate(images):
        changed = augment(image, image.shape[0], tf.constant([i, -1]), settings).numpy()
        corrupted.append(np.rint(changed).astype(np.uint8))
    return np.stack(corrupted)


def predict_logits(model: tf_keras.Model, layers: np.ndarray) -> np.ndarray:
    """Logits float64 (N, 2) of images and masks uint8 (N, F, F, 2): pneumonia, and virus given pneumonia.
    The network sees the box of the lungs."""
    views = view_films(layers, model.input_shape[1])
    return model.predict(views.astype(np.float32), verbose=0).astype(np.float64)


def validate(model: tf_keras.Model, validation: Validation) -> dict[str, float]:
    """AUROC on the validation patients without change, with corruption and with transplanted lungs, and
    of virus against bacteria.

    ``score``, which decides on stopping and on the best epoch, is the mean of the first three: the AUROC
    without change is close to 1 in most epochs and cannot rank them.
    """
    labels, series = validation.films.labels, validation.films.series
    logits = predict_logits(model, validation.films.images)
    others = (predict_logits(model, x) for x in (validation.corrupted, validation.transplanted))
    aurocs = [float(roc_auc_score(labels, z[:, 0])) for z in (logits, *others)]
    return {
        "val_loss": float(log_loss(labels, calibrate(logits[:, 0], 1.0, 0.0))),
        "val_auroc": aurocs[0],
        "corrupted_auroc": aurocs[1],
        "transplanted_auroc": aurocs[2],
        "cause_auroc": float(roc_auc_score(series[labels == 1] == "virus", logits[labels == 1, 1])),
        "score": float(np.mean(aurocs)),
    }
