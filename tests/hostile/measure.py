"""Memory and seconds of a process and all that it started, and of one file through ``predict``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
EVERY_S = 0.02
MAX_MB = 6000.0
MAX_S = 90.0
NICENESS = 10


class Measured(NamedTuple):
    """What a command took.

    Attributes:
        seconds: wall time.
        peak_mb: the most memory that its process tree held at once, MB of 10^6 bytes.
        killed: why it was killed: ``memory``, ``time``, or empty where it ended by itself.
        status: exit status; negative where a signal ended it.
        output: standard output and errors.
    """

    seconds: float
    peak_mb: float
    killed: str
    status: int
    output: str


def find_tree(root: int) -> list[int]:
    """Process ids of ``root``, of its session where it leads one, and of their descendants."""
    parents: dict[int, int] = {}
    tree = {root}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid, state, parent, session = int(path.parent.name), fields[0], int(fields[1]), int(fields[3])
        if state == "Z":
            continue
        parents[pid] = parent
        if session == root:  # an orphan too
            tree.add(pid)
    while found := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= found
    return sorted(tree & parents.keys())


def memory_mb(pid: int) -> float:
    """Proportional set size of a process, or resident size where the system does not tell the former."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def watch(root: int, is_over: Callable[[], bool], max_mb: float, max_s: float) -> tuple[float, str]:
    """Sample a process tree until ``is_over``, and kill it where it takes too much.

    Returns:
        The peak in MB, and why the tree was killed, empty where it was not.
    """
    end = time.monotonic() + max_s
    peak = 0.0
    while not is_over():
        tree = find_tree(root)
        peak = max(peak, sum(map(memory_mb, tree)))
        reason = "memory" if peak > max_mb else "time" if time.monotonic() > end else ""
        if reason:
            kill(root)
            return peak, reason
        time.sleep(EVERY_S)
    return peak, ""


def kill(root: int) -> None:
    """End a process tree."""
    for pid in find_tree(root):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def measure(command: Sequence[str], max_mb: float = MAX_MB, max_s: float = MAX_S) -> Measured:
    """Run a command in a session of its own, nicely, and measure it."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.monotonic()
        with subprocess.Popen(
            ["nice", "-n", str(NICENESS), *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            peak, killed = watch(process.pid, lambda: process.poll() is not None, max_mb, max_s)
        seconds = time.monotonic() - start
        kill(process.pid)  # what the command left behind
        output.seek(0)
        return Measured(seconds, peak, killed, process.returncode, output.read())


def measure_predict(file: Path, max_mb: float = MAX_MB, max_s: float = MAX_S) -> Measured:
    """One file through a fresh ``python -m cxr predict``."""
    command = [sys.executable, "-m", "cxr", "predict", str(file), "--format", "json"]
    return measure(command, max_mb, max_s)


def describe(measured: Measured) -> str:
    """The first words of what came of a ``predict``."""
    if measured.killed:
        return f"killed by the watchdog ({measured.killed})"
    lines = measured.output.strip().splitlines() or [""]
    try:
        row = next(json.loads(line) for line in lines if line.startswith("{"))
    except (StopIteration, json.JSONDecodeError):
        return f"exit status {measured.status}: {lines[-1][:80]}"
    if row["error"] is None:
        return f"read: {row['label']} {row['probability']}"
    return row["error"].removeprefix("Received ").partition("; accepted is")[0][:80]
