"""Measure the inference of both networks by repeated warm runs, with several models taking turns."""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cxr.classifier import Classifier, Prediction


@dataclasses.dataclass(frozen=True)
class Latency:
    """Wall times of repeated warm runs on one film, which is not prepared again.

    Attributes:
        samples_ms: float64 (runs,) by network: ``lungs``, ``classifier``, and ``both``, their sum.
        num_threads: threads of the inference.
    """

    samples_ms: dict[str, np.ndarray]
    num_threads: int

    @property
    def runs(self) -> int:
        """How many runs were timed."""
        return len(self.samples_ms["both"])

    def median_ms(self, network: str = "both") -> float:
        """The median of a network, or of both together."""
        return float(np.median(self.samples_ms[network]))

    def p95_ms(self, network: str = "both") -> float:
        """The 95th percentile of a network, or of both together."""
        return float(np.percentile(self.samples_ms[network], 95))


def measure_latency(
    classifiers: Sequence[Classifier],
    prediction: Prediction,
    repeats: int = 30,
    warmup: int = 3,
    budget_ms: float = math.inf,
) -> list[Latency]:
    """Time the networks of classifiers on the same film. They take turns, so that drift of the machine
    affects all.

    Args:
        classifiers: one or more.
        prediction: of one of them for the film, whose lungs it has found; the inputs of all must be of
            the same size.
        repeats: timed runs of each, 1 or more.
        warmup: runs of each before these, which are not counted.
        budget_ms: time after which no other round begins; there is one timed round in any case.

    Returns:
        A ``Latency`` for each classifier, in order.
    """
    runs: list[list[tuple[float, float]]] = [[] for _ in classifiers]
    end = time.perf_counter() + budget_ms / 1e3
    for repeat in range(warmup + repeats):
        if repeat > warmup and time.perf_counter() > end:
            break
        for samples, classifier in zip(runs, classifiers, strict=True):
            lungs_ms = classifier.finder.network.run(prediction.lungs.image)[1]
            times = lungs_ms, classifier.network.run(prediction.image)[1]
            if repeat >= warmup:
                samples.append(times)
    measured = []
    for samples, classifier in zip(runs, classifiers, strict=True):
        lungs, own = np.array(samples).T
        times_ms = {"lungs": lungs, "classifier": own, "both": lungs + own}
        measured.append(Latency(times_ms, classifier.num_threads))
    return measured


def cpu_name() -> str:
    """The model name of the processor, or its architecture if the system gives no name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
