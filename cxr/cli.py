"""``python -m cxr predict | bulk | info | benchmark``. Not for medical use."""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cxr.classifier import MODEL_NAMES, Classifier, find_model
from cxr.decoding import share_pool
from cxr.errors import InvalidImageError, InvalidModelError
from cxr.files import is_film, is_folder, list_files
from cxr.latency import cpu_name, measure_latency
from cxr.model_card import ModelCard
from cxr.rounding import format_number
from cxr.rows import Row, fail_film, score_film
from cxr.tables import CsvWriter, to_printable

NO_FILM = "a folder without a film"
FEW_FILES = 5  # more than these get a progress bar
BENCHMARK_FILM_PX = 1024
MAX_JOBS = 8  # by default: the one model keeps no more decoders busy, and each film takes memory


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0 if all files were scored, 1 if one failed, 2 for wrong usage, and 130 if
    the user stopped it."""
    args = _build_parser().parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be valid text
    try:
        status = args.run(args)
        sys.stdout.flush()  # a closed pipe must raise here
        return status
    except InvalidModelError as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        _complain("stopped")
        return 130
    except BrokenPipeError:  # the reader, for example `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cxr", description="Pneumonia on chest films. Not for medical use."
    )
    commands = parser.add_subparsers(required=True, metavar="predict | bulk | info | benchmark")

    predict = commands.add_parser("predict", help="score films and folders of films")
    predict.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    predict.add_argument("--model", default="int8", help="int8 (default), float32 or FILE.tflite")
    predict.add_argument("--format", choices=("table", "csv", "json"), default="table")
    predict.add_argument("--threads", type=_positive, default=1, help="threads of an inference")
    predict.add_argument(
        "--jobs",
        type=_positive,
        default=min(os.cpu_count() or 1, MAX_JOBS),
        help="films decoded at once (default here: %(default)s)",
    )
    predict.set_defaults(run=_predict)

    bulk = commands.add_parser("bulk", help="score any number of films to Parquet files, with Ray")
    bulk.add_argument(
        "source", metavar="SOURCE", help="folder or URI of films, such as s3://bucket/films"
    )
    bulk.add_argument(
        "out", metavar="OUT", help="folder or URI of results; films that have one are skipped"
    )
    bulk.add_argument("--model", default="int8", help="int8 (default), float32 or FILE.tflite")
    bulk.add_argument("--workers", type=_positive, help="processes with one CPU each (default: all CPUs)")
    bulk.set_defaults(run=_bulk)

    info = commands.add_parser("info", help="print the model card")
    info.add_argument("--model", default="int8")
    info.set_defaults(run=_info)

    benchmark = commands.add_parser("benchmark", help="time float32 against int8 on this machine")
    benchmark.add_argument("--threads", type=_positive, default=1)
    benchmark.add_argument("--repeats", type=_positive, default=100)
    benchmark.set_defaults(run=_benchmark)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"received {text!r}; accepted is a whole number of 1 or more")
    return int(text)


def _predict(args: argparse.Namespace) -> int:
    share_pool(args.jobs).start()
    classifier = Classifier.load(args.model, args.threads)
    files = list(_list_films(args.paths))
    rows = tqdm(
        _score_files(classifier, files, args.jobs),
        total=len(files),
        unit="film",
        disable=len(files) <= FEW_FILES,
    )
    failed = False
    for row in _write_rows(rows, args.format):
        failed = failed or row["error"] is not None
    return int(failed)


def _score_files(
    classifier: Classifier, files: Sequence[tuple[Path, str | None]], jobs: int
) -> Iterator[Row]:
    """Rows in the order of the files.

    Decoding, which takes most of the time, runs in parallel. At most twice as many films as jobs are
    in progress; the next begins when a row is taken.
    """
    pending: collections.deque[concurrent.futures.Future[Row]] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        for path, left_out in files:
            pending.append(pool.submit(_score_file, classifier, path, left_out))
            if len(pending) == 2 * jobs:
                yield pending.popleft().result()
        yield from (row.result() for row in pending)
    finally:  # whoever stops the command does not wait for films that have not begun
        pool.shutdown(cancel_futures=True)


def _score_file(classifier: Classifier, path: Path, left_out: str | None) -> Row:
    if left_out is not None:
        return fail_film(str(path), InvalidImageError(left_out))
    return score_film(classifier, str(path), path).row


def _bulk(args: argparse.Namespace) -> int:
    if any(importlib.util.find_spec(name) is None for name in ("ray", "pyarrow")):
        print("cxr: bulk needs Ray: pip install -r requirements-bulk.txt", file=sys.stderr)
        return 2
    from cxr.bulk import BulkError, score_folder

    start = time.perf_counter()
    try:
        with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):  # Ray prints there
            result = score_folder(args.source, args.out, args.model, args.workers)
    except BulkError as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        print("cxr: stopped; the same command scores the rest", file=sys.stderr)
        return 130
    seconds = time.perf_counter() - start
    for path, reason in result.left_out.items():
        _complain(f"{path} was left out: received {reason}")
    print(
        f"{result.scored} films in {seconds:.1f} s, {result.scored / seconds:.1f} films/s; "
        f"{result.earlier} had rows already; {result.failed} failed",
        file=sys.stderr,
    )
    if result.postponed:
        films = "1 film has" if result.postponed == 1 else f"{result.postponed} films have"
        _complain(
            f"{films} no row, because this machine could not decode now; run the same command again"
        )
    return int(bool(result.failed or result.postponed or result.left_out))


def _complain(sentence: str) -> None:
    print(f"cxr: {to_printable(sentence)}", file=sys.stderr)


def _list_films(paths: Iterable[Path]) -> Iterator[tuple[Path, str | None]]:
    """List the films of the paths: files as they are named, and folders recursively.

    A folder without films stays in the list, and is refused. Skipped folders come with the reason.
    """
    for path in paths:
        found = list_files(path) if is_folder(path) else {}
        films = {file: left_out for file, left_out in found.items() if left_out or is_film(file)}
        yield from (films or {path: NO_FILM if is_folder(path) else None}).items()


def _write_rows(rows: Iterable[Row], style: str) -> Iterator[Row]:
    """Print each row as soon as it is known, and pass it on."""
    if style == "csv":
        writer = CsvWriter(sys.stdout)
    elif style == "table":
        print(f"{'label':10} {'probability':>11} {'screening':>11} {'ms':>8}  path")
    for row in rows:
        if style == "json":
            print(json.dumps(row), flush=True)
        elif style == "csv":
            writer.write(row)
        elif row["error"] is not None:
            text = f"{row['path']}: {row['error']}"
            print(f"{'failed':10} {'':>11} {'':>11} {'':>8}  {to_printable(text)}")
        else:
            probability = format_number(row["probability"], row["threshold"], least=3)
            print(
                f"{row['label']:10} {probability:>11} {row['screening'] or '':>11} "
                f"{row['latency_ms']:8.1f}  {to_printable(row['path'])}"
            )
        yield row


def _info(args: argparse.Namespace) -> int:
    card = ModelCard.load(find_model(args.model).with_suffix(".json"))
    print(f"{card.name} {card.version} ({card.variant}). Not for medical use.")
    print(f"labels          {card.labels[0]}, {card.labels[1]}")
    print(f"input           uint8 gray, {card.input_size}x{card.input_size} px")
    print(f"calibration     sigmoid(logit / {card.temperature:.4f} + {card.offset:.4f})")
    print(f"prevalence      {card.prevalence:g}, which the probability assumes")
    print(f"threshold       {card.threshold:g}")
    print(f"uncertain       {card.uncertain[0]:.3f} .. {card.uncertain[1]:.3f}")
    print(f"size            {card.size_bytes:,} bytes, sha256 {card.sha256}")
    print(f"finder of lungs sha256 {card.lungs_sha256}")
    for split, metrics in card.metrics.items():
        print(f"{split} ({metrics['films']} films, {metrics['pneumonia']} with pneumonia)")
        for name, m in metrics.items():
            if name not in ("films", "pneumonia"):
                interval = f"95 % interval {m['low']:.4f} .. {m['high']:.4f}"
                print(f"  {name:17} {m['value']:.4f}  ({interval})")
    for split, tests in card.lung_tests.items():
        print(f"{split}, lungs or background altered ({tests['films']} films)")
        for name, figures in tests.items():
            if name == "films":
                continue
            altered = {"": figures} if "value" in figures else figures
            for title, m in altered.items():
                interval = f"95 % interval {m['low']:.4f} .. {m['high']:.4f}"
                print(f"  {f'{name} {title}'.strip():28} {m['value']:.4f}  ({interval})")
    print("provenance")
    for key, value in card.provenance.items():
        print(f"  {key:15} {value if isinstance(value, str) else json.dumps(value)}")
    return 0


def _benchmark(args: argparse.Namespace) -> int:
    classifiers = [Classifier.load(name, args.threads) for name in MODEL_NAMES]
    film = np.random.default_rng(0).integers(0, 256, (BENCHMARK_FILM_PX,) * 2, np.uint8)
    results = measure_latency(classifiers, classifiers[0].predict(film), args.repeats, warmup=10)
    print(f"{cpu_name()}, {args.threads} thread(s), {args.repeats} warm runs, taking turns")
    print(f"{'model':10}{'both networks':>15}{'p95':>10}{'lungs':>11}{'classifier':>12}{'size':>12}")
    for name, classifier, latency in zip(MODEL_NAMES, classifiers, results, strict=True):
        print(
            f"{name:10}{latency.median_ms():12.2f} ms{latency.p95_ms():7.2f} ms"
            f"{latency.median_ms('lungs'):8.2f} ms{latency.median_ms('classifier'):9.2f} ms"
            f"{classifier.card.size_bytes / 1e6:9.2f} MB"
        )
    ratio = results[0].median_ms() / results[1].median_ms()
    print(f"int8 takes {ratio:.2f} of float32's time; both use the same int8 network to find the lungs")
    return 0
