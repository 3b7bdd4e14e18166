"""What a model that sees the whole frame follows: the lung tests on models of version 1, for comparison.

Command, with the files of the first release::

    git show a7401da:models/pneumonia_int8.tflite > runs/first.tflite
    git show a7401da:models/pneumonia_int8.json > runs/first.json
    python -m experiments.whole_frame --model runs/first.tflite --data data/chest_xray
"""

from __future__ import annotations

import json
import types
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from cxr import preprocess
from cxr.model_file import SIGNATURE
from experiments.options import new_parser, run_on_model
from training.calibration import calibrate
from training.config import TrainConfig
from training.lung_tests import format_lungs, measure_lungs
from training.masks import load_masked


class WholeFrameModel:
    """A model of version 1, whose ``logit`` is the mean of the ``evidence`` over the frame."""

    def __init__(self, path: Path) -> None:
        self._card = json.loads(path.with_suffix(".json").read_text())
        interpreter = Interpreter(model_content=path.read_bytes(), num_threads=1)
        self._runner = interpreter.get_signature_runner(SIGNATURE)

    def predict(self, pixels: np.ndarray, lungs: None = None) -> types.SimpleNamespace:
        """Label, logit and evidence of uint8 (H, W). It has no use for ``lungs``."""
        image = preprocess(pixels, self._card["input_size"])[np.newaxis]
        output = self._runner(image=image)
        logit = float(output["logit"][0, 0])
        probability = calibrate(np.array([logit]), self._card["temperature"], self._card["offset"])[0]
        label = self._card["labels"][int(probability >= self._card["threshold"])]
        evidence = output["evidence"][0, :, :, 0]
        return types.SimpleNamespace(label=label, logit=logit, evidence=evidence, lungs=lungs)


def evaluate(path: Path, data: Path, split: str) -> str:
    """The figures of ``training.evaluate lungs`` for a model of version 1, as text.

    Raises:
        ValueError: if the data or the masks cannot be used.
        FileNotFoundError: if the model is missing.
    """
    size = TrainConfig().film_size
    films, train = (load_masked(data, "", part, size) for part in (split, "train"))
    figures = format_lungs(measure_lungs(WholeFrameModel(path), films, train))
    return f"{path.name} on {len(films.paths)} films of {split}\n\n{figures}"


def main() -> None:
    run_on_model(
        new_parser("experiments.whole_frame", __doc__),
        lambda args: evaluate(Path(args.model), args.data, args.split),
    )


if __name__ == "__main__":
    main()
