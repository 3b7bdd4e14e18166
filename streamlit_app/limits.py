"""Limit the memory that visitors' files take, and how long they stay after a tab is closed.

Streamlit limits the size of one file, but neither the sum of a session nor that of all sessions. It drops
an abandoned session only when somebody else connects, and until then its media addresses answer. So this
module handles each request before Streamlit does, and it removes abandoned files on a timer.

It depends on these names of Streamlit and Starlette, and ``tests/test_limits.py`` fails if one changes:

- ``Starlette.__call__`` is replaced, as a page has no other access to the server that runs it.
  (``st.App`` accepts middleware, but then ``streamlit run`` needs a script that is not the page.)
- ``/_stcore/upload_file/SESSION/FILE`` and ``/_stcore/metrics`` are addresses of Streamlit.
- ``UploadedFile`` is deeply copied in each run of the page, which doubles its memory.
- ``file_storage`` of the upload manager holds files by session and by file, each with its ``data``.
- ``Runtime.is_active_session`` and ``close_session``, which must be called on the server's event loop;
  ``remove_session_files`` of the upload manager; ``remove_orphaned_files`` of the media manager.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import gc
import re
import time
from collections.abc import Iterable

from starlette.applications import Starlette
from starlette.formparsers import MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send
from streamlit.runtime import Runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from cxr.errors import MAX_BYTES

MAX_SESSION_BYTES = 256 * 2**20
MAX_SERVER_BYTES = 512 * 2**20
MIN_FILE_BYTES = 2**16  # the least that a file counts, so that a million empty files are refused
FRAMING_BYTES = 2**20  # the most that the body of a request adds to a file
MAX_REFUSALS = 1000  # remembered for a session
MAX_NAME = 64  # characters of Streamlit's name of a file; a longer one is not Streamlit's
GRACE_S = 60.0  # for a tab to come back after its connection broke off
SWEEP_S = 5.0
IDLE_S = 15.0  # until an upload of which nothing comes is given up
MIN_BYTES_PER_S = 2**15  # of an upload after that time; a slower one would hold its share for too long

UPLOAD = re.compile(r"/_stcore/upload_file/([^/]+)/([^/]+)$")
SESSION_IS_FULL = f"One session may hold {MAX_SESSION_BYTES // 2**20} MB at a time."
SERVER_IS_FULL = f"All visitors may hold {MAX_SERVER_BYTES // 2**20} MB at a time; try again later."

# Uploads of more than 1 MB would be written to a temporary file, which is not wanted, and which fails
# on a read-only file system.
MultiPartParser.spool_max_size = 2 * MAX_BYTES

_seen: dict[str, float] = {}  # session to when it was last connected
_arriving: dict[object, tuple[str, int]] = {}  # an upload in progress to its session and bytes
_refused: dict[str, dict[str, tuple[int, str]]] = {}  # session to file to bytes and reason
_timer: asyncio.Task[None] | None = None


def watch_session() -> None:
    """Register this session, so that its files are removed ``GRACE_S`` after its tab is closed."""
    _seen[_session()] = time.monotonic()


def list_refusals() -> list[str]:
    """A sentence for each reason why files of this session were not accepted."""
    refusals = list(_refused.get(_session(), {}).values())
    sentences = []
    for reason in sorted({reason for _, reason in refusals}):
        sizes = [size for size, other in refusals if other == reason]
        files = "1 file" if len(sizes) == 1 else f"{len(sizes)} files"
        sentences.append(f"Received {files} of {_megabytes(sum(sizes))} too many, not taken. {reason}")
    return sentences


def release(uploads: Iterable[UploadedFile]) -> None:
    """Remove uploads when their drop zone is emptied, and forget the refusals."""
    context = get_script_run_ctx()
    for upload in uploads:
        context.uploaded_file_mgr.remove_file(context.session_id, upload.file_id)
    _refused.pop(context.session_id, None)


def sweep(now: float) -> None:
    """Close the sessions whose tabs were closed ``GRACE_S`` ago, and remove files without a session.

    It must be called on the server's event loop.

    Args:
        now: the monotonic clock, s.
    """
    runtime, closed = Runtime.instance(), False
    for session, last in list(_seen.items()):
        if runtime.is_active_session(session):
            _seen[session] = now
        elif now - last > GRACE_S:
            runtime.close_session(session)
            del _seen[session]
            closed = True
    for session in list(_refused):
        if session not in _seen and not runtime.is_active_session(session):
            del _refused[session]
    for session in list(runtime.uploaded_file_mgr.file_storage):  # an upload may outlast its session
        if session not in _seen and not runtime.is_active_session(session):
            runtime.uploaded_file_mgr.remove_session_files(session)
    if closed:
        gc.collect()  # a session refers to itself, and holds a decoded film
        _return_memory()
    # Closing a session only marks a file that can be downloaded; this call removes it.
    runtime.media_file_mgr.remove_orphaned_files()


def _return_memory() -> None:
    """Return to the system what was freed, which glibc would keep."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _session() -> str:
    return get_script_run_ctx().session_id


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.0f} MB" if size >= 2**20 else "less than 1 MB"


def _held(session: str | None = None) -> int:
    """Bytes of uploads of one session or of all, including those in progress."""
    stored = Runtime.instance().uploaded_file_mgr.file_storage
    sizes = [
        (owner, max(len(file.data), MIN_FILE_BYTES))
        for owner, files in list(stored.items())
        for file in list(files.values())
    ]
    return sum(size for owner, size in [*sizes, *_arriving.values()] if session in (None, owner))


def _find_refusal(session: str, size: int) -> str | None:
    """The reason to refuse an upload, or None."""
    if _held(session) + size > MAX_SESSION_BYTES + FRAMING_BYTES:
        return SESSION_IS_FULL
    if _held() + size > MAX_SERVER_BYTES + FRAMING_BYTES:
        return SERVER_IS_FULL
    return None


async def _take(app: Starlette, scope: Scope, receive: Receive, send: Send) -> None:
    """Pass an upload on to Streamlit, or receive it without keeping it.

    Streamlit's drop zone would show a refusal as ``AxiosError`` and not run the page. So it is answered
    as if the file had been accepted; the page runs, does not find the file, and gives the reason.
    """
    session, file = UPLOAD.search(scope["path"]).groups()
    receive = _in_time(receive)
    request = Request(scope, receive)
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() else MAX_BYTES + FRAMING_BYTES
    size = max(size, MIN_FILE_BYTES)
    refusal = _find_refusal(session, size)
    if refusal is None:
        upload = object()
        _arriving[upload] = session, size
        try:
            await _pass_on(app, scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            del _arriving[upload]
        return
    refused = _refused.setdefault(session, {})
    if len(refused) < MAX_REFUSALS and len(file) <= MAX_NAME:
        refused[file] = size, refusal
    try:
        async for _ in request.stream():
            pass
        await Response(status_code=204)(scope, receive, send)
    except ClientDisconnect:
        pass


def _in_time(receive: Receive) -> Receive:
    """Receive from a client that counts as gone if it sends nothing, or far too slowly."""
    start, received = time.monotonic(), 0

    async def receive_in_time() -> Message:
        nonlocal received
        try:
            message = await asyncio.wait_for(receive(), IDLE_S)
        except TimeoutError:
            return {"type": "http.disconnect"}
        received += len(message.get("body", b""))
        late_s = time.monotonic() - start - IDLE_S
        return {"type": "http.disconnect"} if received < late_s * MIN_BYTES_PER_S else message

    return receive_in_time


async def _limited(app: Starlette, scope: Scope, receive: Receive, send: Send) -> None:
    """Replaces ``Starlette.__call__``: handles a request within the limits."""
    if scope["type"] != "http":
        await _pass_on(app, scope, receive, send)
        return
    _start_timer()
    if scope["path"].endswith("/_stcore/metrics"):  # it would tell anybody the number of visitors
        await PlainTextResponse("Not Found", status_code=404)(scope, receive, send)
        return
    upload = UPLOAD.search(scope["path"])
    if upload and scope["method"] == "PUT" and Runtime.instance().is_active_session(upload[1]):
        await _take(app, scope, receive, send)
        return
    if upload and scope["method"] == "DELETE":
        _refused.get(upload[1], {}).pop(upload[2], None)
    await _pass_on(app, scope, receive, send)


def _start_timer() -> None:
    global _timer  # noqa: PLW0603
    if _timer is None or _timer.done():
        _timer = asyncio.get_running_loop().create_task(_sweep_on_timer())


async def _sweep_on_timer() -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        sweep(time.monotonic())


# Streamlit gives each run of the page a deep copy of the uploads; the page only reads them.
UploadedFile.__deepcopy__ = lambda upload, memo: upload

_pass_on = getattr(Starlette.__call__, "__wrapped__", Starlette.__call__)
Starlette.__call__ = functools.wraps(_pass_on)(_limited)
