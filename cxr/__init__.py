"""CXR Lite: a calibrated pneumonia probability for a chest film, with the evidence for it.

Not for medical use.
"""

from cxr.classifier import Classifier, Prediction
from cxr.errors import InvalidImageError, InvalidModelError
from cxr.explanation import overlay_evidence
from cxr.imaging import Film, preprocess, read_film, read_image
from cxr.latency import Latency, measure_latency
from cxr.lungs import LungFinder, Lungs
from cxr.model_card import ModelCard

__all__ = [
    "Classifier",
    "Film",
    "InvalidImageError",
    "InvalidModelError",
    "Latency",
    "LungFinder",
    "Lungs",
    "ModelCard",
    "Prediction",
    "measure_latency",
    "overlay_evidence",
    "preprocess",
    "read_film",
    "read_image",
]
