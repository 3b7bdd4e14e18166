import asyncio
import contextlib
import http.client
import re
import socket
import threading
import time
import tracemalloc

import pytest
import uvicorn
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime import Runtime
from streamlit.runtime.uploaded_file_manager import UploadedFileRec
from streamlit.starlette import App
from websockets.sync.client import connect

from cxr.rows import COLUMNS, Scored
from streamlit_app import batch, limits
from tests.conftest import ROOT, SAMPLES

# Streamlit leaves the event loops of its sessions to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

MB = 2**20
NORMAL = (SAMPLES / "normal_1.png").read_bytes()


class Server:
    """The page behind its server, on a thread of this process."""

    def __init__(self):
        app = App(str(ROOT / "streamlit_app" / "app.py"))
        self.uvicorn = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        self.thread = threading.Thread(target=self.uvicorn.run)
        self.thread.start()
        while not self.uvicorn.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        self.port = self.uvicorn.servers[0].sockets[0].getsockname()[1]

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            return connection.getresponse().status

    def get(self, path: str) -> int:
        return self.request("GET", path)

    def sweep(self, now: float) -> None:
        """As the timer does."""

        async def sweep():
            limits.sweep(now)

        asyncio.run_coroutine_threadsafe(sweep(), Runtime.instance()._get_async_objs().eventloop).result()

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join()


@pytest.fixture
def server(monkeypatch):
    """With a timer that never comes: tests sweep themselves."""
    monkeypatch.setattr(limits, "SWEEP_S", 1e6)
    monkeypatch.setattr(limits, "_timer", None)
    monkeypatch.setattr(Runtime, "_instance", None)
    monkeypatch.chdir(ROOT)
    server = Server()
    yield server
    server.stop()


class Tab:
    """A browser's tab: its connection, its session, and what the page shows."""

    def __init__(self, server, connection):
        self.server, self.connection = server, connection
        self.run()

    def start(self, widgets=None) -> None:
        """Start a run of the page, with a list of uploaded names in its drop zone."""
        message = BackMsg()
        message.rerun_script.query_string = ""
        if widgets is not None:
            state = message.rerun_script.widget_states.widgets.add(id=self.drop_zone)
            for name in widgets:
                info = state.file_uploader_state_value.uploaded_file_info.add(file_id=name, name=name)
                info.file_urls.file_id = name
        self.connection.send(message.SerializeToString())

    def run(self, widgets=None) -> None:
        self.start(widgets)
        self.elements, finished = [], False
        while not finished:
            answer = ForwardMsg.FromString(self.connection.recv())
            kind = answer.WhichOneof("type")
            if kind == "new_session":
                self.session = answer.new_session.initialize.session_id or self.session
            elif kind == "delta":
                self.elements.append(answer.delta.new_element)
            finished = kind == "script_finished"
        zones = [e.file_uploader.id for e in self.elements if e.WhichOneof("type") == "file_uploader"]
        self.drop_zone = zones[-1]

    @property
    def errors(self) -> list[str]:
        return [element.alert.body for element in self.elements if element.WhichOneof("type") == "alert"]

    def upload(self, name: str, data: bytes) -> int:
        body = (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="film.png"\r\n'
            b"Content-Type: application/octet-stream\r\n\r\n" + data + b"\r\n--x--\r\n"
        )
        return self.request("PUT", name, body, **{"Content-Type": "multipart/form-data; boundary=x"})

    def request(self, method: str, name: str, body: bytes | None = None, **headers: str) -> int:
        path = f"/_stcore/upload_file/{self.session}/{name}"
        token = "2|aaaaaaaa|bbbbbbbb|1700000000"
        headers |= {"Cookie": f"_streamlit_xsrf={token}", "X-Xsrftoken": token}
        return self.server.request(method, path, body, **headers)

    def stored(self) -> list[str]:
        return list(Runtime.instance().uploaded_file_mgr.file_storage.get(self.session, {}))


@contextlib.contextmanager
def open_tab(server):
    address = f"ws://127.0.0.1:{server.port}/_stcore/stream"
    with connect(address, subprotocols=["streamlit"], max_size=None) as connection:
        yield Tab(server, connection)


def test_a_file_of_exactly_the_limit_is_taken(server):
    with open_tab(server) as tab:
        assert tab.upload("largest", bytes(64 * MB)) == 204
        assert tab.stored() == ["largest"]


def test_an_upload_of_which_nothing_comes_gives_its_share_back(server, monkeypatch):
    monkeypatch.setattr(limits, "MAX_SERVER_BYTES", 8 * MB)
    monkeypatch.setattr(limits, "IDLE_S", 1.0)
    with open_tab(server) as tab, socket.create_connection(("127.0.0.1", server.port)) as idle:
        head = f"PUT /_stcore/upload_file/{tab.session}/idle HTTP/1.1\r\nHost: localhost\r\n"
        token = "2|aaaaaaaa|bbbbbbbb|1700000000"
        head += f"Cookie: _streamlit_xsrf={token}\r\nX-Xsrftoken: {token}\r\n"
        head += "Content-Type: multipart/form-data; boundary=x\r\n"
        idle.sendall(f"{head}Content-Length: {9 * MB}\r\n\r\n".encode())
        while not limits._arriving:
            time.sleep(0.01)
        tab.upload("refused", NORMAL)
        assert tab.stored() == []
        while limits._arriving:
            time.sleep(0.01)
        tab.upload("taken", NORMAL)
        assert tab.stored() == ["taken"]


def test_what_a_session_may_hold_is_limited_and_said(server, monkeypatch):
    monkeypatch.setattr(limits, "MAX_SESSION_BYTES", 8 * MB)
    with open_tab(server) as tab:
        for i in range(4):
            tab.upload(f"film_{i}", bytes(3 * MB))
        assert tab.stored() == ["film_0", "film_1"]
        tab.run([f"film_{i}" for i in range(4)])
        assert any("Received 2 files of 6 MB too many" in error for error in tab.errors)
        assert any("One session may hold 256 MB" in error for error in tab.errors)
        for i in range(4):  # the visitor removes all
            assert tab.request("DELETE", f"film_{i}") == 204
        tab.run([])
        assert tab.stored() == []
        assert not any("too many" in error for error in tab.errors)
        tab.upload("another", bytes(3 * MB))
        assert tab.stored() == ["another"]


def test_what_all_sessions_may_hold_is_limited(server, monkeypatch):
    monkeypatch.setattr(limits, "MAX_SERVER_BYTES", 4 * MB)
    with open_tab(server) as one, open_tab(server) as other:
        one.upload("film", bytes(3 * MB))
        other.upload("film", bytes(3 * MB))
        assert one.stored() == ["film"]
        assert other.stored() == []
        other.run(["film"])
        assert any("All visitors" in error for error in other.errors)
        one.run(["film"])
        assert not any("too many" in error for error in one.errors)


def test_empty_files_count(server, monkeypatch):
    monkeypatch.setattr(limits, "MAX_SESSION_BYTES", 0)
    with open_tab(server) as tab:
        for i in range(40):
            tab.upload(f"{i}", b"")
        assert len(tab.stored()) < 20


def test_the_files_of_a_closed_tab_are_removed_though_nobody_connects(server):
    with open_tab(server) as tab:
        for name in ("one", "two"):
            tab.upload(name, NORMAL)
        tab.run(["one", "two"])
        (address,) = set(re.findall(r"/media/\w+\.csv", str(tab.elements)))
        assert server.get(address) == 200
        server.sweep(time.monotonic() + 10 * limits.GRACE_S)
        assert tab.stored() == ["one", "two"]  # it is connected
    closed = time.monotonic()
    server.sweep(closed + limits.GRACE_S / 2)
    assert tab.stored() == ["one", "two"]  # it might come back
    assert server.get(address) == 200
    server.sweep(closed + 20 * limits.GRACE_S)
    assert tab.stored() == []
    assert server.get(address) == 404


def test_an_upload_that_outlasts_its_session_is_removed(server):
    manager = Runtime.instance().uploaded_file_mgr
    manager.add_file("gone", UploadedFileRec("film", "film.png", "image/png", NORMAL))
    server.sweep(time.monotonic())
    assert "gone" not in manager.file_storage


def test_refusals_are_remembered_for_sessions_and_under_streamlits_names_alone(server, monkeypatch):
    monkeypatch.setattr(limits, "MAX_SESSION_BYTES", 0)
    monkeypatch.setattr(limits, "_refused", {})
    with open_tab(server) as tab:
        tab.upload("film", bytes(3 * MB))
        tab.upload("f" * 1000, bytes(3 * MB))
        assert list(limits._refused[tab.session]) == ["film"]
        limits._refused["left before it was seen"] = {"film": (1, "")}
        server.sweep(time.monotonic())
        assert list(limits._refused) == [tab.session]


def test_the_timer_sweeps(server, monkeypatch):
    monkeypatch.setattr(limits, "SWEEP_S", 0.01)
    manager = Runtime.instance().uploaded_file_mgr
    manager.add_file("gone", UploadedFileRec("film", "film.png", "image/png", NORMAL))
    for _ in range(1000):
        server.get("/_stcore/health")
        if "gone" not in manager.file_storage:
            break
    assert "gone" not in manager.file_storage


@pytest.mark.parametrize("path", ["/_stcore/metrics", "//_stcore/metrics", "/_stcore/%6detrics"])
def test_metrics_are_hidden(server, path):
    assert server.get("/_stcore/health") == 200
    assert server.get(path) == 404


def test_uploads_wait_while_a_sample_is_shown(server):
    with open_tab(server) as tab:
        tab.upload("film", NORMAL)
        tab.run(["film"])
        message = BackMsg()
        message.rerun_script.query_string = "sample=pneumonia_1"
        message.rerun_script.is_history_navigation = True
        tab.connection.send(message.SerializeToString())
        while ForwardMsg.FromString(tab.connection.recv()).WhichOneof("type") != "script_finished":
            pass
        assert tab.stored() == ["film"]


def test_the_page_shares_the_bytes_of_an_upload(server):
    with open_tab(server) as tab:
        data = bytes(2 * MB)
        tab.upload("film", data)
        stored = Runtime.instance().uploaded_file_mgr.file_storage[tab.session]["film"].data
        tracemalloc.start()
        tab.run(["film"])
        used, _ = tracemalloc.get_traced_memory()
        largest = max(trace.size for trace in tracemalloc.take_snapshot().traces)
        tracemalloc.stop()
        assert len(stored) == len(data)
        assert largest < MB, used


def test_a_batch_ends_when_its_visitor_leaves(server, monkeypatch):
    scored, reached, left = [], threading.Event(), threading.Event()

    def score(classifier, name, *args):
        scored.append(name)
        if len(scored) == 3:
            reached.set()
            left.wait(60)
        return Scored(dict.fromkeys(COLUMNS) | {"path": name, "error": "none"})

    monkeypatch.setattr(batch, "score_film", score)
    with open_tab(server) as tab:
        names = [str(i) for i in range(9)]
        for name in names:
            tab.upload(name, NORMAL)
        tab.start(names)
        assert reached.wait(60)
    while Runtime.instance().is_active_session(tab.session):
        time.sleep(0.01)
    left.set()
    for thread in threading.enumerate():
        if thread.name == "ScriptRunner.scriptThread":
            thread.join(60)
    assert len(scored) == 3
