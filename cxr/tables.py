"""Write rows as CSV that spreadsheets do not evaluate, and names that terminals do not interpret.

The package defusedcsv 3.0.0 was tried for CSV. It does not defuse cells that begin with a tab or line
break, full-width signs, signs after a space or quotation mark, and a formula after a ``;`` within a name,
which becomes a cell of its own if the spreadsheet's separator is ``;``.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, TextIO

from cxr.rows import COLUMNS, Row

# Spreadsheets may skip quotation marks, spaces, control characters and characters without width.
_SKIPPED = r"[\"\s\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*"
_SIGN = r"[-=+@\uff0d\uff1d\uff0b\uff20\ufe63\ufe66\ufe62\ufe6b]"  # also full-width and small forms
# The sign is optional, because otherwise a text of separators would take quadratic time.
_CELL_START = re.compile(rf"((?:\A|[;\t\r\n]){_SKIPPED})({_SIGN}?)")
_BREAKS = ("\t", "\r", "\n")


class CsvWriter:
    """Writes a line with the names of ``COLUMNS`` to a text stream, and then rows one by one.

    Text is defused and quoted. Numbers are not: ``-0.5`` stays a number. ``None`` is an empty cell, and a
    list is written in brackets.
    """

    def __init__(self, stream: TextIO) -> None:
        self._writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC)
        self._writer.writerow(COLUMNS)

    def write(self, row: Row) -> None:
        """Write one row, without keys that are not in ``COLUMNS``."""
        self._writer.writerow([_defuse(row.get(column)) for column in COLUMNS])


def write_csv(rows: Iterable[Row], stream: TextIO) -> None:
    """Write all rows, as ``CsvWriter`` does."""
    writer = CsvWriter(stream)
    for row in rows:
        writer.write(row)


def to_printable(text: str) -> str:
    r"""Replace control characters, line breaks and changes of direction by escapes like ``\x1b``."""
    return "".join(c.encode("unicode_escape").decode() if _is_control(c) else c for c in text)


def _is_control(character: str) -> bool:
    category = unicodedata.category(character)
    return category.startswith("C") or category in ("Zl", "Zp")


def _defuse(value: Any) -> Any:
    """Put an apostrophe before a sign that may begin a formula, and before a leading tab or break."""
    if not isinstance(value, str):
        return value
    text = _CELL_START.sub(lambda found: found[1] + ("'" + found[2] if found[2] else ""), value)
    return f"'{text}" if text.startswith(_BREAKS) else text
