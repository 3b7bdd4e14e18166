"""Run a page on its own server, and measure memory and processor time of its processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str:
    """Find the path of Chromium.

    Raises:
        SystemExit: if there is none.
    """
    for path in filter(None, map(shutil.which, CHROMIUMS)):
        return path
    raise SystemExit(f"received a machine without a browser; accepted is one with {', '.join(CHROMIUMS)}")


@contextlib.contextmanager
def serve(script: Path) -> Iterator[tuple[str, int]]:
    """Run a Streamlit script until the block ends. Yields its address when it answers, and its pid."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    command += ["--server.port", str(port), "--server.address", "127.0.0.1"]
    environment = os.environ | {"STREAMLIT_SERVER_HEADLESS": "true", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url)
            yield url, server.pid
        finally:
            server.terminate()


def wait_for(url: str, timeout_s: float = 60.0) -> None:
    """Wait until a server answers.

    Raises:
        TimeoutError: if it does not in time.
    """
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"received no answer from {url} in {timeout_s:g} s")


def memory_mb(pid: int | str, field: str) -> float:
    """The sum of ``VmRSS`` (now) or ``VmHWM`` (peak) of a process and its descendants.

    Memory that they share counts for each.
    """
    lines = (line for p in _list_tree(pid) for line in _read_status(p.pid))
    return sum(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its descendants, including those that have ended."""
    times = [process.cpu_times() for process in _list_tree(pid)]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def _list_tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _read_status(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return []
