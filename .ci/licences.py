"""Write the tables of docs/LICENCES.md from the metadata of the packages that are installed here."""

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "LICENCES.md"
SPDX = {  # what packages without a licence expression write
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


def read_requirements(path: Path) -> list[Requirement]:
    """Those that Linux installs; neither options nor hashes."""
    lines = re.findall(r"^[a-zA-Z][^\\#\n]*", path.read_text(encoding="utf-8"), re.MULTILINE)
    found = [Requirement(line) for line in lines]
    on_linux = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    return [one for one in found if one.marker is None or one.marker.evaluate(on_linux)]


def find_licence(name: str) -> str:
    """The SPDX expression, or what comes nearest to one."""
    metadata = importlib.metadata.metadata(name)
    licence = metadata.get("License-Expression") or metadata.get("License", "")
    if not licence or "\n" in licence:  # some put the whole text there
        classifiers = metadata.get_all("Classifier", [])
        licence = " or ".join(one.split(" :: ")[-1] for one in classifiers if "License ::" in one)
    if not licence:
        raise SystemExit(f"{name} states no licence: read its files and add a case here")
    return SPDX.get(licence, licence)


def make_table(path: Path) -> str:
    names = sorted({one.name.lower() for one in read_requirements(path)})
    rows = [f"| {name} | {find_licence(name)} |" for name in names]
    return "\n".join(["", "| package | licence |", "|---|---|", *rows, ""])


def fill(page: str) -> str:
    """The page with each table, between its two comments, made anew."""
    for name in ("requirements.lock", "training/requirements.txt"):
        start, end = f"<!-- {name}: start -->\n", "\n<!-- end -->"
        before, rest = page.split(start)
        page = before + start + make_table(ROOT / name) + end + rest.split(end, 1)[1]
    return page


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
