"""Which blocks and activations lose most in int8.

Command, on the validation patients::

    python -m experiments.layers --run runs/e0
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from ai_edge_quantizer import quantizer, recipe

from experiments.fake_quantization import FILMS
from experiments.options import new_parser
from experiments.study import HEAD, Study, round_to_int8, run_study
from export.convert import to_tflite
from export.measure import score
from export.quantize import find_activations, percentile_range, quantize, sample_activations
from export.structure import load_exported

BLOCKS = ("stem", "block1", "block2", "block3", "block4", "block5", "block6", "block7", "top")
BLOCK_FILMS = 100
SHOWN_TENSORS = 12


def report_layers(study: Study) -> str:
    """Two markdown tables: the error of the logit when only one block is int8, and the activations with
    the lowest signal-to-quantization-noise ratio in the shipped ranges."""
    model = to_tflite(load_exported(study.run)[1])
    chosen = slice(None, None, max(len(study.validation.films.paths) // BLOCK_FILMS, 1))
    images = study.validation.films.images[chosen, ..., 0]
    reference = score(study.classifier(model), images).logits
    blocks = []
    for block in BLOCKS:
        rest = "|".join(b for b in BLOCKS if b != block)
        patterns = [*HEAD, rf".*/(rescaling|normalization|{rest}).*"]
        logits = score(
            study.classifier(quantize(model, study.calibration_films[..., :1], patterns)), images
        ).logits
        error = np.sqrt(np.mean((logits - reference) ** 2)) / reference.std()
        correlation = np.corrcoef(logits, reference)[0, 1]
        blocks.append([block, f"{error:.3f}", f"{correlation:.4f}"])
    noise = {}
    films = study.calibration_films[:FILMS, ..., :1]
    names = set(find_activations(quantizer.Quantizer(bytearray(model), recipe.static_wi8_ai8()), films))
    for name, values in sample_activations(model, films, names).items():
        if values.std() > 0:
            error = np.mean((values - round_to_int8(values, percentile_range(values))) ** 2)
            noise[name] = 10 * np.log10(values.var() / max(error, 1e-12))
    worst = [
        [name.split(";")[0].removeprefix("efficientnet_b0/"), f"{noise[name]:.1f}"]
        for name in sorted(noise, key=noise.__getitem__)[:SHOWN_TENSORS]
    ]
    tables = (
        pd.DataFrame(blocks, columns=["int8 alone", "error of the logit / its spread", "correlation"]),
        pd.DataFrame(worst, columns=["activation", "signal to noise, dB"]),
    )
    return "\n\n".join(t.to_markdown(index=False, disable_numparse=True) for t in tables)


def main() -> None:
    run_study(new_parser("experiments.layers", __doc__), lambda study, _: report_layers(study))


if __name__ == "__main__":
    main()
