"""Measure hostile and honest files, class by class::

    python -m tests.hostile                                  # small sizes, a minute
    python -m tests.hostile --large --out after.csv          # as an attacker would choose them
    python -m tests.hostile --large --classes webp_canvas --page --tabs 4

One file at a time goes through a fresh ``python -m cxr predict``, or with ``--page`` through as many
browser tabs at once as ``--tabs`` says, of one server. What takes more than 6 GB or 90 s is killed.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path

from tests.hostile import measure
from tests.hostile.build import Case
from tests.hostile.held_out import HELD_OUT
from tests.hostile.held_out_dicom import HELD_OUT_DICOM
from tests.hostile.honest import HONEST
from tests.hostile.known import KNOWN

SETS: dict[str, dict[str, Case]] = {
    "known": KNOWN,
    "held_out": HELD_OUT | HELD_OUT_DICOM,
    "honest": HONEST,
}
COLUMNS = ("set", "class", "bytes", "seconds", "peak_mb", "worst_health_ms", "outcome")


def measure_one(file: Path, tabs: int) -> tuple[float, float, float | str, str]:
    """Seconds, peak memory in MB, worst health check in ms, and outcome; by predict for 0 tabs."""
    if not tabs:
        measured = measure.measure_predict(file)
        return measured.seconds, measured.peak_mb, "", measure.describe(measured)
    from tests.hostile.page import measure_page  # needs a browser

    return measure_page(file, tabs)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--large", action="store_true", help="sizes that take gigabytes")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="by default all of the sets")
    parser.add_argument("--page", action="store_true", help="through the page in a browser")
    parser.add_argument("--tabs", type=int, default=1, help="of the page, at once")
    parser.add_argument("--out", type=Path, metavar="FILE.csv")
    args = parser.parse_args()
    named = [(s, name, case) for s in args.sets for name, case in SETS[s].items()]
    if args.classes:
        named = [entry for entry in named if entry[1] in args.classes]
    with tempfile.TemporaryDirectory() as folder, (args.out or Path(os.devnull)).open("w") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        print(f"{'class':28} {'bytes':>10} {'seconds':>8} {'peak MB':>8} {'health ms':>9}  outcome")
        for which, name, case in named:
            file = Path(folder) / name
            file.write_bytes(case.build(case.large if args.large else case.small))
            size = file.stat().st_size
            seconds, peak, health, outcome = measure_one(file, args.tabs if args.page else 0)
            file.unlink()
            health = health if health == "" else round(health)
            writer.writerow((which, name, size, round(seconds, 2), round(peak), health, outcome))
            out.flush()
            print(f"{name:28} {size:10} {seconds:8.1f} {peak:8.0f} {health:>9}  {outcome}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
