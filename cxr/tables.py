"""Rows as text for others: CSV that no spreadsheet takes for formulas, and names that no terminal obeys.

The package defusedcsv 3.0.0 was tried for the first. It leaves cells that begin with a tab or line break,
full-width signs, signs after a space or quotation mark, and a formula behind a ``;`` within a name, which
becomes a cell where the spreadsheet's separator is ``;``.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, TextIO

from cxr.rows import COLUMNS, Row

# Spreadsheets may pass over quotation marks, spaces, control characters and those without width.
_PASSED_OVER = r"[\"\s\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*"
_SIGN = r"[-=+@\uff0d\uff1d\uff0b\uff20\ufe63\ufe66\ufe62\ufe6b]"  # full-width and small forms as well
# It matches with or without a sign: a text of separators alone would take quadratic time otherwise.
_CELL_START = re.compile(rf"((?:\A|[;\t\r\n]){_PASSED_OVER})({_SIGN}?)")
_BREAKS = ("\t", "\r", "\n")


class CsvWriter:
    """Writes a line with the names of ``COLUMNS`` to a text stream, and then rows, each as it comes.

    Texts are defused and quoted, numbers are neither: ``-0.5`` stays a number. ``None`` is an empty cell.
    """

    def __init__(self, stream: TextIO) -> None:
        self._writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC)
        self._writer.writerow(COLUMNS)

    def write(self, row: Row) -> None:
        """Write one row; other keys than those of ``COLUMNS`` are left out."""
        self._writer.writerow([_defuse(row.get(column)) for column in COLUMNS])


def write_csv(rows: Iterable[Row], stream: TextIO) -> None:
    """Write all rows, as ``CsvWriter`` does."""
    writer = CsvWriter(stream)
    for row in rows:
        writer.write(row)


def to_printable(text: str) -> str:
    r"""The text with control characters, line breaks and turns of direction as escapes like ``\x1b``."""
    return "".join(c.encode("unicode_escape").decode() if _is_control(c) else c for c in text)


def _is_control(character: str) -> bool:
    category = unicodedata.category(character)
    return category.startswith("C") or category in ("Zl", "Zp")


def _defuse(value: Any) -> Any:
    """Put an apostrophe before a sign that may start a formula, and before a first tab or line break."""
    if not isinstance(value, str):
        return value
    text = _CELL_START.sub(lambda found: found[1] + ("'" + found[2] if found[2] else ""), value)
    return f"'{text}" if text.startswith(_BREAKS) else text
