"""Folders and stores of films and of rows; Ray is not started."""

import os
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from cxr.bulk.scoring import digest
from cxr.bulk.stores import CARD_KEY, MARKER, SCHEMA, SOURCE_KEY, BulkError, hold
from cxr.classifier import Classifier
from cxr.cli import main
from tests.conftest import write_films


@pytest.fixture(params=["disk", "store"])
def results(films, request):
    """A file system that locks, and one that has markers alone, each with a folder of results."""
    (films / "rows").mkdir()
    if request.param == "disk":
        return fs.LocalFileSystem(), str(films / "rows")
    return fs.SubTreeFileSystem(str(films), fs.LocalFileSystem()), "rows"


def test_results_are_held_by_one_run_at_a_time(results):
    with hold(*results):
        for _ in range(2):  # a refusal leaves nothing behind
            with pytest.raises(BulkError, match="another run writes"), hold(*results):
                pytest.fail("two runs at once")
    with hold(*results):
        pass
    with pytest.raises(KeyboardInterrupt), hold(*results):
        raise KeyboardInterrupt
    with hold(*results):
        pass


def test_runs_that_start_together_never_both_go_on(results):
    inside, most, refused = [], [], []
    barrier = threading.Barrier(4)

    def run():
        for _ in range(25):
            barrier.wait()
            try:
                with hold(*results):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.001)
                    inside.pop()
            except BulkError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) + len(refused) == 100
    assert {*most} <= {1}


def test_the_marker_of_a_killed_run_is_named_with_what_to_do(films):
    store = fs.SubTreeFileSystem(str(films), fs.LocalFileSystem())
    marker = films / "rows" / f"{MARKER}1234"
    marker.parent.mkdir()
    marker.write_text("process 7 on ward, started yesterday")
    with pytest.raises(BulkError) as caught, hold(store, "rows"):
        pass
    assert "process 7 on ward, started yesterday" in str(caught.value)
    assert f"delete rows/{marker.name}" in str(caught.value)
    marker.unlink()
    with hold(store, "rows"):
        assert len(list(marker.parent.iterdir())) == 1
    assert list(marker.parent.iterdir()) == []


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_folders_that_are_left_out_are_named(films, capfd, monkeypatch, prefix):
    write_films(films, 2)
    (films / "circle\x1b").symlink_to(films)
    (films / "locked").mkdir(mode=0)
    scandir = os.scandir

    def refuse(place="."):  # root may list all
        if os.fspath(place) == str(films / "locked"):
            raise PermissionError(13, "Permission denied", os.fspath(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    source = f"{prefix}{films}"
    keys = {CARD_KEY: digest(Classifier.load("int8").card), SOURCE_KEY: source.encode()}
    rows = [{"path": f"{source}/film_{i:02}.png", "label": "NORMAL"} for i in range(2)]
    Path("rows").mkdir()  # nothing is left to score, so Ray is not started
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA.with_metadata(keys)), "rows/rows.parquet")
    assert main(["bulk", source, "rows"]) == 1
    err = capfd.readouterr().err
    assert f"{source}/circle\\x1b was left out: received a link to a folder" in err
    assert (
        f"{source}/locked was left out: received a folder that cannot be listed (Permission denied)"
        in err
    )
    assert "2 had rows already; 0 failed" in err
    for i in range(2):
        (films / f"film_{i:02}.png").unlink()
    assert main(["bulk", source, "rows"]) == 2
    assert "without a film, but for" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["missing", "rows"], "no folder"),
        (["films/film_00.png", "rows"], "no folder"),
        (["empty", "rows"], "without a film"),
        (["nothing://films", "rows"], "Unrecognized filesystem"),
        (["file:///nowhere/films", "rows"], "cannot be listed"),
        (["films", "nothing://rows"], "Unrecognized filesystem"),
        (["films", "films/film_00.png"], "cannot be written"),
        (["films", "torn"], "torn.parquet"),
        (["films", "other"], "another model"),
        (["films", "moved"], "another source"),
        (["films", "rows", "--model", "int4"], "int4"),
    ],
)
def test_wrong_usage_is_one_sentence(films, capfd, argv, sentence):
    write_films(films, 1)
    for name in ("empty", "torn", "other"):
        Path(name).mkdir()
    Path("torn", "torn.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(SCHEMA.empty_table(), "other/other.parquet")
    keys = {CARD_KEY: digest(Classifier.load("int8").card), SOURCE_KEY: b"films in /elsewhere"}
    Path("moved").mkdir()
    pq.write_table(SCHEMA.with_metadata(keys).empty_table(), "moved/moved.parquet")
    assert main(["bulk", *argv]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("cxr: Received")
    assert sentence in err
    assert err.count("\n") == 1
