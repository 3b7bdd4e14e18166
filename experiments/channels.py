"""Networks with fewer channels: what each round of ``export.shrink`` costs in accuracy and gains in time.

Command, on the validation patients::

    python -m experiments.channels --run runs/e0

The rounds are saved in the run's folder, where ``python -m export --keep`` finds them again; those of
``--teachers`` in a folder of their own. With ``--criteria`` the two ways to choose channels are compared
instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from cxr.classifier import Classifier
from cxr.latency import measure_latency
from experiments.options import new_parser
from experiments.study import Study, run_study
from export.convert import to_tflite
from export.importance import total_cost
from export.measure import score
from export.quantize import quantize
from export.shrink import CRITERIA, ShrinkConfig, fine_tune, remove_channels, rounds_folder, shrink
from training.lung_tests import measure_lungs
from training.model import load_run
from training.validation import validate

THREADS = (1, 2)
COMPARED_SHARE = 0.5  # of the channels' time, at which the criteria are compared


def sweep_channels(study: Study, teachers: list[Path]) -> str:
    """A markdown table of int8, whole and after each round. Labels are compared with whole float32."""
    _, whole = load_run(study.run)
    networks = [whole, *(load_run(path)[1] for path in teachers)]
    folder = rounds_folder(study.run, ShrinkConfig())
    if teachers:  # an export's rounds learn from the run alone
        folder = folder.with_name(f"{folder.name}_teachers")
    rounds = shrink(whole, study.config, study.train, ShrinkConfig(), networks, folder)
    films = study.calibration_films[..., :1]
    float32 = to_tflite(whole)
    reference = _verdicts(study, study.classifier(float32))
    models = {"1.00": quantize(float32, films)}
    for share, network in rounds:
        models[f"{share:.2f}"] = quantize(to_tflite(network), films)
    rows = [_measure(study, name, model, reference) for name, model in models.items()]
    for threads in THREADS:
        classifiers = [study.classifier(model, threads) for model in models.values()]
        prediction = classifiers[0].predict(study.validation.films.images[0, ..., 0])
        times = measure_latency(classifiers, prediction, repeats=100, warmup=10)
        medians = [time.median_ms("classifier") for time in times]
        for row, median in zip(rows, medians, strict=True):
            row[f"time, {threads} thread(s)"] = f"{median / medians[0]:.2f}"
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def compare_criteria(study: Study, teachers: list[Path]) -> str:
    """A markdown table of both criteria, before and after an epoch of fine-tuning."""
    _, whole = load_run(study.run)
    networks = [whole, *(load_run(path)[1] for path in teachers)]
    settings, rows = ShrinkConfig(), []
    for criterion in CRITERIA:
        budget = COMPARED_SHARE * total_cost(whole)
        cut = remove_channels(whole, study.config, study.train, budget, criterion)
        tuned = fine_tune(cut, study.config, study.train, networks, 1, settings.round_learning_rate)
        for title, network in (("no", cut), ("1 epoch", tuned)):
            scores = validate(network, study.validation)
            rows.append(
                {"criterion": criterion, "fine-tuned": title}
                | {
                    f"{name} AUROC": f"{scores[f'{key}_auroc']:.4f}"
                    for name, key in (
                        ("validation", "val"),
                        ("corrupted", "corrupted"),
                        ("transplanted", "transplanted"),
                    )
                }
            )
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def _verdicts(study: Study, classifier: Classifier) -> np.ndarray:
    """Whether the logit is above 0, bool (N,), on the validation films as they are and corrupted."""
    layers = (study.validation.films.images, study.validation.corrupted)
    return np.concatenate([score(classifier, x[..., 0]).logits > 0 for x in layers])


def _measure(study: Study, name: str, model: bytes, reference: np.ndarray) -> dict[str, str]:
    classifier, films = study.classifier(model), study.validation.films
    plain, corrupted = (
        score(classifier, x[..., 0]).logits for x in (films.images, study.validation.corrupted)
    )
    tests = measure_lungs(classifier, films, study.train)
    agreement = np.mean((np.concatenate([plain, corrupted]) > 0) == reference)
    return {
        "time of channels": name,
        "size, MB": f"{len(model) / 1e6:.2f}",
        "validation AUROC": f"{roc_auc_score(films.labels, plain):.4f}",
        "corrupted AUROC": f"{roc_auc_score(films.labels, corrupted):.4f}",
        **{
            f"{test.replace('_', ' ')} AUROC": f"{tests[test]['auroc']['value']:.3f}"
            for test in ("lungs_gray", "lungs_blurred", "transplanted")
        },
        "background gray, changed": f"{tests['background_gray']['changed']['value']:.1%}",
        "evidence inside": f"{tests['evidence_inside']['value']:.1%}",
        "labels as whole float32": f"{agreement:.1%}",
    }


def main() -> None:
    parser = new_parser("experiments.channels", __doc__)
    parser.add_argument(
        "--teachers", type=Path, nargs="+", default=[], help="more runs that the networks learn from"
    )
    parser.add_argument("--criteria", action="store_true", help="compare the criteria instead")

    def run(study: Study, args: argparse.Namespace) -> str:
        return (compare_criteria if args.criteria else sweep_channels)(study, args.teachers)

    run_study(parser, run)


if __name__ == "__main__":
    main()
