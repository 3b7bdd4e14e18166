"""The folder of a run: its configuration, and its history with one row for each epoch."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

Row = dict[str, Any]
COMMIT = "commit.txt"


def check_run(run: Path, config: Row, resume: bool) -> None:
    """Refuse to mix two runs in one folder.

    Raises:
        ValueError: if the run exists and ``resume`` is false, or was started with another config.
    """
    path = run / "config.json"
    if path.exists() and not resume:
        raise ValueError(f"{run} exists; pass --resume to continue it, or another --name")
    if path.exists() and json.loads(path.read_text()) != config:
        raise ValueError(f"{run} was started with another configuration; see {path}")


def write_config(run: Path, config: Row) -> None:
    """Write config.json, which marks the folder as a run, and commit.txt, the commit it started from."""
    run.mkdir(parents=True, exist_ok=True)
    if not (run / COMMIT).exists():
        (run / COMMIT).write_text(find_commit())
    (run / "config.json").write_text(json.dumps(config, indent=2))


def find_commit() -> str:
    """The commit of this code, with ``-dirty`` if tracked files have changed since, or ``unknown``
    outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    command += ["--exclude", "*"]  # never a tag instead of the hash
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        return "unknown"
    return described.stdout.strip()


def read_history(run: Path) -> list[Row]:
    """The rows of history.csv; there are none before the first epoch."""
    path = run / "history.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_history(run: Path, rows: list[Row]) -> None:
    """Replace history.csv in one step, so that a kill leaves either the old rows or the new ones."""
    temporary = run / "history.csv.new"
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(run / "history.csv")
