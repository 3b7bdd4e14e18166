"""Measure latency by repeated warm runs, by stage, with several models taking turns."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cxr.classifier import Classifier


@dataclasses.dataclass(frozen=True)
class Latency:
    """Wall times of repeated warm runs of one model on one film.

    Attributes:
        samples_ms: stage (``preprocess``, ``inference``, ``screening``) to float64 (repeats,).
        num_threads: threads of the inference.
    """

    samples_ms: dict[str, np.ndarray]
    num_threads: int

    def median_ms(self, stage: str) -> float:
        """The median of a stage."""
        return float(np.median(self.samples_ms[stage]))

    def p95_ms(self, stage: str) -> float:
        """The 95th percentile of a stage."""
        return float(np.percentile(self.samples_ms[stage], 95))


def measure_latency(
    classifiers: Sequence[Classifier], pixels: np.ndarray, repeats: int = 30, warmup: int = 3
) -> list[Latency]:
    """Time classifiers on the same film. They take turns, so that drift of the machine affects all.

    Args:
        classifiers: one or more.
        pixels: uint8 (H, W).
        repeats: timed runs of each, 1 or more.
        warmup: runs of each before these, which are not counted.

    Returns:
        A ``Latency`` for each classifier, in order.
    """
    runs: list[list[dict[str, float]]] = [[] for _ in classifiers]
    for repeat in range(warmup + repeats):
        for samples, classifier in zip(runs, classifiers, strict=True):
            latency_ms = classifier.predict(pixels).latency_ms
            if repeat >= warmup:
                samples.append(latency_ms)
    return [
        Latency(
            samples_ms={stage: np.array([s[stage] for s in samples]) for stage in samples[0]},
            num_threads=classifier.num_threads,
        )
        for samples, classifier in zip(runs, classifiers, strict=True)
    ]


def cpu_name() -> str:
    """The model name of the processor, or its architecture if the system gives no name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
