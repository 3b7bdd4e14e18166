"""A visitor without a browser: a session of the page over Streamlit's websocket, in its own messages.

Twenty browsers on the server's machine would take most of its cores. This sends and receives what the
page's frontend does, so that the server does the same work, and draws nothing.
"""

from __future__ import annotations

import asyncio
import re
import time

import requests
import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState

XSRF_COOKIE = "_streamlit_xsrf"
TIMEOUT_S = 120


class Visitor:
    """One session. ``async with Visitor(url) as visitor`` opens and closes it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = requests.Session()
        self._cached: dict[str, ForwardMsg] = {}
        self._session, self._drop_zone = "", ""

    async def __aenter__(self) -> Visitor:
        address = self.url.replace("http", "ws", 1) + "/_stcore/stream"
        self._socket = await websockets.connect(address, subprotocols=["streamlit"], max_size=None)
        await self._run([])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()
        self._http.close()

    async def show(self, film: bytes) -> tuple[float, str, str]:
        """Upload a film in place of the one before.

        Returns:
            Seconds from the upload to the end of the page's run, the verdict's heading, and the
            description of the picture.
        """
        start = time.perf_counter()
        request = BackMsg()
        request.file_urls_request.request_id = "film"
        request.file_urls_request.session_id = self._session
        request.file_urls_request.file_names.append("film.jpg")
        await self._socket.send(request.SerializeToString())
        while (message := await self._receive()).WhichOneof("type") != "file_urls_response":
            pass
        (place,) = message.file_urls_response.file_urls
        await asyncio.to_thread(self._put, place.upload_url, film)
        state = WidgetState(id=self._drop_zone)
        info = state.file_uploader_state_value.uploaded_file_info.add()
        info.name, info.size, info.file_id = "film.jpg", len(film), place.file_id
        info.file_urls.CopyFrom(place)
        texts = await self._run([state])
        seconds = time.perf_counter() - start
        verdict = next((t for t in texts if t.startswith(("Pneumonia", "Not scored"))), "")
        found = (re.search(r"Chest film of \d+ by \d+ pixels", text) for text in texts)
        return seconds, verdict, next((match[0] for match in found if match), "")

    async def _run(self, states: list[WidgetState]) -> list[str]:
        """Run the page with these widgets. Returns the texts of headings and the data of components."""
        request = BackMsg()
        request.rerun_script.query_string = ""
        request.rerun_script.widget_states.widgets.extend(states)
        request.rerun_script.cached_message_hashes.extend(self._cached)
        await self._socket.send(request.SerializeToString())
        texts = []
        while (message := await self._receive()).WhichOneof("type") != "script_finished":
            if message.HasField("new_session"):
                self._session = message.new_session.initialize.session_id
            element = message.delta.new_element
            kind = element.WhichOneof("type")
            if kind == "file_uploader":
                self._drop_zone = element.file_uploader.id
            elif kind == "heading":
                texts.append(element.heading.body)
            elif kind == "bidi_component":
                texts.append(element.bidi_component.SerializeToString().decode("utf-8", "ignore"))
        return texts

    async def _receive(self) -> ForwardMsg:
        message = ForwardMsg.FromString(await asyncio.wait_for(self._socket.recv(), TIMEOUT_S))
        if message.WhichOneof("type") == "ref_hash":
            return self._cached[message.ref_hash]
        if message.metadata.cacheable:
            self._cached[message.hash] = message
        return message

    def _put(self, path: str, film: bytes) -> None:
        if XSRF_COOKIE not in self._http.cookies:
            self._http.get(f"{self.url}/_stcore/health", timeout=TIMEOUT_S)
        token = self._http.cookies.get(XSRF_COOKIE, "").strip('"')
        files, headers = {"file": ("film.jpg", film, "image/jpeg")}, {"X-Xsrftoken": token}
        answer = self._http.put(self.url + path, files=files, headers=headers, timeout=TIMEOUT_S)
        answer.raise_for_status()
