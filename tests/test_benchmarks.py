import asyncio
import io
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import requests
from PIL import Image

from benchmarks.end_to_end import installed_mb
from benchmarks.films import make_dicom_film, make_film
from benchmarks.operators import summarize
from benchmarks.page import Link, connect
from benchmarks.roofline import count_macs
from benchmarks.server import serve
from benchmarks.table import COLUMNS, print_rows, read_table, shorten
from benchmarks.visitor import Visitor
from cxr import Classifier, read_image
from cxr.classifier import find_model
from cxr.rounding import format_probability
from tests.conftest import ROOT


def test_rows_are_ratios_of_medians_the_smallest_first(capsys):
    print_rows("speed", {"slow": np.array([4.0, 6.0, 5.0]), "fast": np.array([2.5])}, "slow", "ms")
    assert capsys.readouterr().out.splitlines() == [
        "| speed | fast | 2.5 ms |  | 0.50 |",
        "| speed | slow | 5 ms | 5.9 ms | 1.00 |",
    ]


def test_the_readme_has_the_rows_that_a_reader_needs():
    everything = pd.read_csv(ROOT / "benchmarks" / "results.csv", dtype=str, keep_default_na=False)
    assert tuple(everything.columns) == COLUMNS
    shown = shorten(everything)
    assert list(shown.columns) == ["benchmark", "what", "ratio", "median"]
    assert 20 <= len(shown) <= 40
    table = shown.to_markdown(index=False, disable_numparse=True)
    assert table in (ROOT / "benchmarks" / "README.md").read_text()
    pd.testing.assert_frame_equal(read_table(table), shown.reset_index(drop=True))


def test_a_relay_counts_delays_and_limits_what_passes():
    link = Link(bytes_per_s=1e4, delay_s=0.05)
    with serve(ROOT / "streamlit_app" / "app.py") as (url, _), connect(url, link) as address:
        start = time.perf_counter()
        page = requests.get(address, timeout=60)
        seconds = time.perf_counter() - start
        assert seconds > 0.1 + 0.9 * link.received / link.bytes_per_s  # there and back
        assert link.received > len(page.content) / 2  # it may be compressed
        assert page.content == requests.get(url, timeout=60).content


def test_macs_are_those_of_a_pruned_efficientnet():
    """EfficientNetB0 has .39 billion at 224 px with three channels (Tan and Le 2019), of which the stem
    has 10.8 million. Pruning has left .35 of them."""
    whole = (390e6 - 10.8e6 * 2 / 3) * (160 / 224) ** 2
    assert count_macs(find_model("float32")) == pytest.approx(0.35 * whole, rel=0.03)
    assert count_macs(find_model("int8")) == count_macs(find_model("float32"))


def test_operators_are_counted_by_kind():
    operators = [("CAST", 0.25), ("Delegate/Add (ND)", 0.5), ("Delegate/Add (ND)", 1.0)]
    assert summarize(operators) == {"CAST, outside XNNPACK": (1, 0.25), "Add (ND)": (2, 1.5)}


def test_only_the_cast_of_the_pixels_stays_outside_xnnpack():
    command = [sys.executable, "-m", "benchmarks.operators", str(find_model("int8")), "--threads", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = {line.split("|")[1].strip(): line.split("|")[2] for line in result.stdout.splitlines()}
    assert [kind for kind in rows if "outside" in kind] == ["CAST, outside XNNPACK"]
    assert float(rows["all"].split(":")[1]) > 0.3  # ms: the profiler was on


def test_films_are_of_the_size_asked_and_differ():
    films = [make_film(400, 300, number) for number in (0, 4)]
    assert films[0] != films[1]
    assert [Image.open(io.BytesIO(film)).size for film in films] == [(400, 300)] * 2


def test_dicom_films_show_what_the_jpegs_show():
    film, jpeg = (read_image(io.BytesIO(make(400, 300, 1))) for make in (make_dicom_film, make_film))
    assert film.shape == (300, 400)
    assert np.corrcoef(film.ravel(), jpeg.ravel())[0, 1] > 0.99


def test_installed_size_has_what_a_package_requires():
    assert installed_mb(("pandas",)) > installed_mb(("numpy",)) > 1
    assert installed_mb(("numpy", "NumPy")) == installed_mb(("numpy",))


def test_a_visitor_without_a_browser_gets_the_verdicts_of_its_films():
    films = [make_film(400 + 20 * i, 300, i, grain=0.0) for i in (0, 2)]
    classifier = Classifier.load("int8")
    expected = [classifier.predict(read_image(io.BytesIO(film))) for film in films]

    async def show_all(url):
        async with Visitor(url) as visitor:
            return [await visitor.show(film) for film in films]

    with serve(ROOT / "streamlit_app" / "app.py") as (url, _):
        shown = asyncio.run(show_all(url))
    for (seconds, verdict, description), prediction, width in zip(
        shown, expected, (400, 440), strict=True
    ):
        assert seconds > 0
        assert format_probability(prediction.probability) in verdict
        assert ("unlikely" in verdict) == (prediction.label == "NORMAL")
        assert description == f"Chest film of {width} by 300 pixels"
