"""Which blocks and activations lose most in int8.

Command, on the validation patients::

    python -m experiments.layers --run runs/b0
"""

from __future__ import annotations

import argparse

import numpy as np
from ai_edge_quantizer import quantizer, recipe

from experiments.fake_quantization import FILMS
from experiments.study import HEAD, Study, round_to_int8, run_study
from export.convert import to_tflite
from export.measure import score
from export.quantize import find_activations, percentile_range, quantize, sample_activations

BLOCKS = ("stem", "block1", "block2", "block3", "block4", "block5", "block6", "block7", "top")
BLOCK_FILMS = 100
SHOWN_TENSORS = 12


def report_layers(study: Study) -> str:
    """Two markdown tables: what the logit suffers when one block alone is int8, and the activations that
    the shipped ranges serve worst, by signal-to-quantization-noise ratio."""
    model = to_tflite(study.load("pruned_weights.h5"))
    chosen = slice(None, None, max(len(study.validation.films.paths) // BLOCK_FILMS, 1))
    images = study.validation.films.images[chosen, ..., 0]
    reference = score(study.classifier(model), images).logits
    lines = ["| int8 alone | error of the logit / its spread | correlation |", "|---|---|---|"]
    for block in BLOCKS:
        rest = "|".join(b for b in BLOCKS if b != block)
        patterns = [*HEAD, rf".*/(rescaling|normalization|{rest}).*"]
        logits = score(
            study.classifier(quantize(model, study.calibration_films, patterns)), images
        ).logits
        error = np.sqrt(np.mean((logits - reference) ** 2)) / reference.std()
        lines.append(f"| {block} | {error:.3f} | {np.corrcoef(logits, reference)[0, 1]:.4f} |")
    noise = {}
    films = study.calibration_films[:FILMS]
    names = set(find_activations(quantizer.Quantizer(bytearray(model), recipe.static_wi8_ai8()), films))
    for name, values in sample_activations(model, films, names).items():
        if values.std() > 0:
            error = np.mean((values - round_to_int8(values, percentile_range(values))) ** 2)
            noise[name] = 10 * np.log10(values.var() / max(error, 1e-12))
    lines += ["", "| activation | signal to noise, dB |", "|---|---|"]
    for name in sorted(noise, key=noise.__getitem__)[:SHOWN_TENSORS]:
        lines.append(f"| {name.split(';')[0].removeprefix('efficientnet_b0/')} | {noise[name]:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.layers", description=__doc__.split("\n", maxsplit=1)[0]
    )
    run_study(parser, lambda study, _: report_layers(study))


if __name__ == "__main__":
    main()
