"""List the files of a folder, in the same way for ``predict`` and ``bulk``."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cxr.imaging import EXTENSIONS, is_dicom

INDEX = "DICOMDIR"  # the list of contents of a DICOM medium
LINKED_FOLDER = "a link to a folder, which is not followed"


def list_files(folder: Path) -> dict[Path, str | None]:
    """List the files in a folder and below it that may be films by their names, in order.

    Links to files are followed. Links to folders are not: they may lead out of the folder or in circles,
    and give films a second name under which they would be scored again.

    Returns:
        Paths that begin with ``folder``, each with ``None``. A folder that was skipped has the reason
        instead, which completes "Received ...".
    """
    found: dict[Path, str | None] = {}

    def note(error: OSError) -> None:
        found[Path(error.filename)] = f"a folder that cannot be listed ({error.strerror})"

    for parent, folders, names in os.walk(folder, onerror=note):
        links = [path for name in folders if (path := Path(parent, name)).is_symlink()]
        found |= dict.fromkeys(links, LINKED_FOLDER)
        files = [Path(parent, name) for name in names if may_be_film(name)]
        found |= dict.fromkeys(filter(_is_file, files))
    return dict(sorted(found.items()))


def find_extension(name: str | Path) -> str:
    """The extension of a file name, in lower case. Digits are none: DICOM files are often named by a UID,
    such as ``CR.1.2.840.113619.78``."""
    extension = Path(name).suffix.lower()
    return "" if extension[1:].isdigit() else extension


def may_be_film(name: str | Path) -> bool:
    """Whether a file may be a film by its name: it has an extension of films, or none, as in DICOM."""
    return find_extension(name) in ("", *EXTENSIONS) and Path(name).name.upper() != INDEX


def is_film(path: Path) -> bool:
    """Whether a file is a film by its extension, or DICOM without extension, as archives write it.

    A file that cannot be read counts as a film, so that it gets a row with the reason.
    """
    if extension := find_extension(path):
        return extension in EXTENSIONS
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return True


def is_folder(path: Path) -> bool:
    """Like ``Path.is_dir``, but False instead of an error if the path may not be looked up."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    """Whether it is not a pipe or socket; True if this is unknown, as opening it will give the reason."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True
