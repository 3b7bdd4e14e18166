"""The processes that decode: what limits them, and what happens to a film when one ends."""

import concurrent.futures
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from cxr import InvalidImageError, decoding, read_film
from cxr.decoding import DecoderPool
from cxr.imaging import decode_film
from tests.conftest import ROOT, draw_film, png

SMALL = png(draw_film(1, pneumonia=True, size=160))
LIMITS_ARE_KNOWN = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")


@pytest.fixture(scope="module")
def slow() -> bytes:
    """A film that takes a second to decode."""
    rows = np.arange(7000, dtype=np.uint8)[:, np.newaxis]
    return png(np.broadcast_to(np.dstack([rows, rows, rows]), (7000, 7000, 3)).copy())


@pytest.fixture
def pool():
    pool = DecoderPool(1)
    yield pool
    pool.close()


@pytest.fixture
def worker(pool):
    """The pool's process, idle after a film."""
    before = set(psutil.Process().children())
    pool.decode(SMALL)
    (worker,) = set(psutil.Process().children()) - before
    return worker


def decode_while(pool: DecoderPool, film: bytes, act) -> None:
    """Decode a film, and act once it is under way."""
    calls = iter([act])
    pool.decode(film, on_wait=lambda ahead: next(calls, lambda: None)())


def test_pixels_are_those_of_a_decode_in_this_process(pool):
    pixels, notes = pool.decode(SMALL)
    assert np.array_equal(pixels, decode_film(SMALL).pixels)
    assert notes == ()


def test_a_refusal_keeps_its_sentence(pool):
    with pytest.raises(InvalidImageError, match="Received an image of only 100x100 px; accepted is"):
        pool.decode(png(np.zeros((100, 100), np.uint8)))


def test_a_process_takes_one_film_after_another(pool, worker):
    for _ in range(3):
        pool.decode(SMALL)
    assert worker.is_running()


def test_a_process_that_dies_costs_its_film_alone(pool, worker, slow):
    with pytest.raises(InvalidImageError, match="more memory or time than a film may"):
        decode_while(pool, slow, worker.kill)
    assert pool.decode(SMALL)[0].shape == (160, 160)


def test_a_process_that_died_between_films_costs_none(pool, worker):
    worker.kill()
    worker.wait(10)
    assert pool.decode(SMALL)[0].shape == (160, 160)


def test_a_film_past_its_deadline_is_ended(pool, worker, slow, monkeypatch):
    monkeypatch.setattr(decoding, "DEADLINE_S", 0.3)
    with pytest.raises(InvalidImageError, match="more memory or time than a film may"):
        pool.decode(slow)
    assert not worker.is_running()


def test_work_stops_when_nobody_waits(pool, worker, slow):
    class LeftError(Exception):
        pass

    def leave():
        raise LeftError

    with pytest.raises(LeftError):
        decode_while(pool, slow, leave)
    worker.wait(10)
    assert pool.decode(SMALL)[0].shape == (160, 160)


def test_those_who_wait_learn_how_many_are_before_them(pool, slow):
    ahead = [[], [], []]
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        films = [threads.submit(pool.decode, slow, ahead[0].append)]
        while not ahead[0]:
            time.sleep(0.01)
        for heard in ahead[1:]:
            films.append(threads.submit(pool.decode, slow, heard.append))
            while not heard:
                time.sleep(0.01)
        assert all(film.result()[0].shape == (7000, 7000) for film in films)
    assert [heard[0] for heard in ahead] == [0, 1, 2]


def test_of_large_films_one_is_decoded_at_a_time(slow):
    pool = DecoderPool(2)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        before, peak = set(psutil.Process().children()), []
        films = [threads.submit(pool.decode, slow) for _ in range(2)]
        while not all(film.done() for film in films):
            workers = set(psutil.Process().children()) - before
            peak.append(sum(worker.memory_info().rss > 150 * 2**20 for worker in workers))
            time.sleep(0.01)
        assert all(film.result()[0].shape == (7000, 7000) for film in films)
    pool.close()
    assert max(peak) == 1


@LIMITS_ARE_KNOWN
def test_the_operating_system_bounds_memory_time_and_files(worker):
    limits = Path(f"/proc/{worker.pid}/limits").read_text().splitlines()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits}
    assert int(soft["Max address space"]) < 1.2e9
    assert int(soft["Max cpu time"]) < 30
    assert soft["Max file size"] == soft["Max core file size"] == "0"


@LIMITS_ARE_KNOWN
def test_secrets_of_the_environment_stay_here(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    pool, before = DecoderPool(1), set(psutil.Process().children())
    pool.decode(SMALL)
    (worker,) = set(psutil.Process().children()) - before
    assert "AWS_SECRET_ACCESS_KEY" not in worker.environ()
    pool.close()


def test_the_working_directory_is_not_imported_from(tmp_path, monkeypatch, pool):
    for name in ("PIL", "numpy", "json", "dl"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported from here')")
    monkeypatch.chdir(tmp_path)
    assert pool.decode(SMALL)[0].shape == (160, 160)


def test_processes_end_with_the_one_that_started_them():
    script = (
        "import os, psutil, time\n"
        "from cxr.decoding import shared_pool\n"
        "from tests.test_decoding import SMALL\n"
        "shared_pool().decode(SMALL)\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        worker = psutil.Process(int(process.stdout.readline()))
        process.kill()
    worker.wait(20)


def test_many_threads_share_a_pool():
    pool = DecoderPool(2)
    films = [draw_film(seed, pneumonia=False, size=130 + seed) for seed in range(20)]
    barrier = threading.Barrier(20)

    def decode(film: np.ndarray) -> np.ndarray:
        barrier.wait()
        return pool.decode(png(film))[0]

    with concurrent.futures.ThreadPoolExecutor(20) as threads:
        for film, pixels in zip(films, threads.map(decode, films), strict=True):
            assert np.array_equal(pixels, film)
    pool.close()


@pytest.fixture
def broken_receive(monkeypatch):
    """Makes the first answer of a decoder another one; exceptions are raised."""

    def break_first(*answers) -> None:
        left, receive = iter(answers), decoding.receive

        def receive_or_break(stream, limit):
            answer = next(left, receive)
            if isinstance(answer, Exception):
                raise answer
            received = receive(stream, limit)
            return received if answer is receive else answer

        monkeypatch.setattr(decoding, "receive", receive_or_break)

    return break_first


@pytest.mark.parametrize(
    "answer",
    [
        MemoryError(),
        b'{"shape": [25600], "notes": []}',
        b'{"shape": [1, 160, 160], "notes": []}',
        b'{"shape": "aa", "notes": []}',
        b"[" * 2**16,
    ],
)
def test_an_answer_that_cannot_be_used_ends_its_process(pool, worker, broken_receive, answer):
    """What it still has to say would be taken for the answer to the next film."""
    broken_receive(answer)
    with pytest.raises(InvalidImageError, match="damaged, or took more memory"):
        pool.decode(SMALL)
    worker.wait(10)
    other = draw_film(2, pneumonia=False, size=150)
    assert np.array_equal(pool.decode(png(other))[0], other)


def test_a_large_film_that_is_given_up_is_not_the_answer_to_the_next(pool, slow, monkeypatch):
    pool.decode(SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "GRANTED", None)  # fails after the process has asked for room
        with pytest.raises(InvalidImageError, match="more memory or time than a film may"):
            pool.decode(slow)
    assert pool.decode(SMALL)[0].shape == (160, 160)


def test_small_films_pass_a_large_one_that_waits(slow):
    pool, done = DecoderPool(2), []
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        ahead = [[], []]
        large = []
        for heard in ahead:
            large.append(threads.submit(pool.decode, slow, heard.append))
            large[-1].add_done_callback(lambda _: done.append("large"))
            while not heard:
                time.sleep(0.01)
        while 1 not in ahead[1]:  # one large film is before it
            time.sleep(0.01)
        small = threads.submit(pool.decode, SMALL)
        small.add_done_callback(lambda _: done.append("small"))
        assert all(film.result()[0].shape == (7000, 7000) for film in large)
        small.result()
    pool.close()
    assert done.index("small") < 2
    assert len(done) == 3


def test_a_file_that_waits_is_not_read_yet(slow):
    pool, read = DecoderPool(1), []

    def read_small() -> bytes:
        read.append(True)
        return SMALL

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        heard = []
        first = threads.submit(pool.decode, slow, heard.append)
        while not heard:
            time.sleep(0.01)

        def stop(ahead: int) -> None:
            raise TimeoutError

        with pytest.raises(TimeoutError):
            pool.decode(read_small, stop)
        assert not read
        assert first.result()[0].shape == (7000, 7000)
    assert pool.decode(read_small)[0].shape == (160, 160)
    pool.close()


def test_a_file_object_may_be_read_twice(slow):
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        files = [io.BytesIO(b"before" + slow) for _ in range(2)]
        for file in files:
            file.seek(6)
        films = [threads.submit(read_film, file) for file in files]
        assert all(film.result().pixels.shape == (7000, 7000) for film in films)


def test_pixels_can_be_written_to(pool):
    pixels, _ = pool.decode(SMALL)
    pixels[:10] = 0
    assert pixels[:10].max() == 0


def test_a_decoder_that_does_not_start_is_said_to(pool, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(InvalidImageError, match="because the decoder does not start on this machine"):
        pool.decode(SMALL)


def test_without_another_process_there_is_a_sentence(pool, monkeypatch):
    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(decoding.subprocess, "Popen", refuse)
        pool.start()
        with pytest.raises(InvalidImageError, match="cannot start another process; accepted is"):
            pool.decode(SMALL)
    assert pool.decode(SMALL)[0].shape == (160, 160)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_has_its_own_pool():
    """Also if a thread, which the child does not have, holds the lock of the parent's."""
    script = (
        "import os\n"
        "from cxr import decoding\n"
        "from tests.test_decoding import SMALL\n"
        "decoding.shared_pool().decode(SMALL)\n"
        "decoding._share_lock.acquire()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(decoding.shared_pool().decode(SMALL)[0].shape != (160, 160))\n"
        "decoding._share_lock.release()\n"
        "print(os.waitpid(child, 0)[1])\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.communicate(timeout=60)[0] == b"0\n"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
