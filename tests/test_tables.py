import csv
import io

import pytest

from cxr.rows import COLUMNS
from cxr.tables import CsvWriter, to_printable, write_csv

FORMULA = "=HYPERLINK(A1)"


def write(**values) -> str:
    stream = io.StringIO()
    write_csv([dict.fromkeys(COLUMNS) | values], stream)
    return stream.getvalue()


def read(text: str, separator: str = ",") -> list[list[str]]:
    return list(csv.reader(io.StringIO(text), delimiter=separator))


@pytest.mark.parametrize("sign", [*"=+-@", *"\uff1d\uff0b\uff0d\uff20", *"\ufe66\ufe62\ufe63\ufe6b"])
@pytest.mark.parametrize("before", ["", " ", "\t", "\r", "\n", '"', "\ufeff", "\u200b", "\x00"])
def test_no_text_begins_with_a_sign_of_formulas(before, sign):
    for column in ("path", "error"):
        cell = dict(zip(*read(write(**{column: f"{before}{sign}1+1.png"})), strict=True))[column]
        assert cell.lstrip('"\t\r\n \ufeff\u200b\x00').startswith("'")
        assert cell.replace("'", "") == f"{before}{sign}1+1.png"


@pytest.mark.parametrize("text", ["\tfilm.png", "\rfilm.png", "\nfilm.png"])
def test_no_text_begins_with_a_tab_or_line_break(text):
    assert read(write(path=text))[1][0] == f"'{text}"


@pytest.mark.parametrize("column", ["path", "error"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("text", ["a;{}", 'a";{}', 'a;"{}', "a; {}", "a\t{}", "a\n{}", 'a";"{}";"b'])
def test_no_cell_is_a_formula_whatever_the_separator(text, separator, column):
    cells = [cell for row in read(write(**{column: text.format(FORMULA)}), separator) for cell in row]
    assert any(FORMULA in cell for cell in cells)
    assert not any(cell.lstrip('" ').startswith("=") for cell in cells)


def test_numbers_and_ordinary_texts_are_as_they_were():
    header, cells = read(write(path="films/a-b=c;d.png", probability=-0.5, novelty=1e-7, uncertain=False))
    assert tuple(header) == COLUMNS
    row = dict(zip(header, cells, strict=True))
    assert (row["path"], row["probability"], row["uncertain"]) == ("films/a-b=c;d.png", "-0.5", "False")
    assert float(row["novelty"]) == 1e-7
    assert row["label"] == row["error"] == ""
    assert "-0.5" in write(probability=-0.5).splitlines()[1].split(",")  # without quotation marks


def test_rows_are_written_as_they_come_without_other_keys():
    stream = io.StringIO()
    writer = CsvWriter(stream)
    writer.write({"path": "a.png", "thumbnail": "data:"})
    assert read(stream.getvalue()) == [list(COLUMNS), ["a.png", *[""] * (len(COLUMNS) - 1)]]


def test_what_a_terminal_may_obey_is_escaped():
    text = to_printable("a\x1b[2J\x9b\r\nb\u202egnp.\u2066\udcff\u2028")
    assert text == "a\\x1b[2J\\x9b\\r\\nb\\u202egnp.\\u2066\\udcff\\u2028"
    assert to_printable("Röntgen 胸部\u3000 1.png") == "Röntgen 胸部\u3000 1.png"
