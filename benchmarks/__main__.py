"""Run all benchmarks except ``load_test`` and ``stages``, in 30 minutes on two idle cores.

The results go to CSV files beside the README, and what a reader needs to a table in it.

Command, with ``benchmarks/requirements.txt`` and Chromium installed::

    python -m benchmarks --run runs/NAME --data data/chest_xray
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.peers import SIZES
from benchmarks.server import ROOT, find_chromium
from benchmarks.table import COLUMNS, read_table, shorten
from benchmarks.versions import read_first
from cxr.latency import cpu_name

START, END = "<!-- results: start -->", "<!-- results: end -->"
PACKAGES = ("ai-edge-litert", "tensorflow", "tf-keras", "onnxruntime", "openvino", "nncf", "streamlit")
MODELS = [str(ROOT / "models" / f"pneumonia_{name}.tflite") for name in ("int8", "float32")]


def run(module: str, *arguments: object, package: str = "benchmarks") -> str:
    """Run a benchmark. Returns the table that it prints, without messages of libraries. The table goes to
    stderr as well, so that a failure of a later benchmark loses nothing."""
    command = [sys.executable, "-m", f"{package}.{module}", *map(str, arguments)]
    print(" ".join(command[2:]), file=sys.stderr, flush=True)
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    table = "\n".join(line for line in result.stdout.splitlines() if line.startswith("|"))
    print(table, file=sys.stderr, flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="All benchmarks.")
    parser.add_argument("--run", type=Path, required=True, help="runs/NAME, exported")
    parser.add_argument("--data", type=Path, required=True, help="the data set as images")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "peers", help="for the peers' formats"
    )
    args = parser.parse_args()
    readme = ROOT / "benchmarks" / "README.md"
    if not {START, END} <= set(readme.read_text().splitlines()):
        raise SystemExit(f"received {readme} without the markers {START} and {END}")

    data, out = args.data.resolve(), args.out.resolve()
    find_chromium()  # fails now rather than after half of the benchmarks, and so does the next
    read_first()
    run("peers", "--run", args.run.resolve(), "--data", data, "--out", out)
    rows = ["|".join(COLUMNS), "|".join("-" * len(COLUMNS))]
    for size in SIZES:
        rows += [run("inference", "--peers", out / str(size), "--threads", n) for n in (1, 2)]
    rows.append(run("versions"))
    rows.append(run("end_to_end", "--model", out / str(SIZES[0]) / "keras.h5"))
    rows.append(run("page"))
    rows.append(run("cage"))
    rows.append(run("throughput"))
    rows.append(run("training_speed", "--data", data))
    results = read_table("\n".join(rows))
    tables = {
        "results": results,
        "operators": read_table(run("operators", *MODELS)),
        "splits": read_table(
            run("levers", "--peers", out / str(SIZES[0]), "--data", data, package="experiments")
        ),
    }
    for name, table in tables.items():
        table.to_csv(readme.with_name(f"{name}.csv"), index=False)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    machine = f"{cpu_name()}, {os.cpu_count()} cores, {datetime.date.today()};\n{versions}."
    table = shorten(results).to_markdown(index=False, disable_numparse=True)
    before, _, rest = readme.read_text().partition(START)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{START}\n{machine}\n\n{table}\n{END}{after}")


if __name__ == "__main__":
    main()
