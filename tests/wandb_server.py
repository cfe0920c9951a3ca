"""A stand-in for the W&B server on loopback, and the ways in which a server can fail.

It answers the GraphQL operations, file streams and uploads of ``wandb.init``, ``wandb sync`` and saving a report, and
keeps what it was sent. It proves what the suite sends, not how W&B shows it.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import threading
from collections.abc import Callable
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.wandb_backend import WandbBackend


class Fault(StrEnum):
    """How the server fails.

    It says nothing at all, nothing but the first answer, or that the key is wrong; or it does so with reports only.
    """

    NONE = "none"
    SILENT = "silent"
    SILENT_TO_POSTS = "silent to posts"
    UNAUTHORISED = "unauthorised"
    NO_REPORTS = "no reports"
    SILENT_TO_REPORTS = "silent to reports"
    FORGETS_ANSWER = "keeps a report and does not say so"


class WandbServer(WandbBackend):
    """A server in threads of this process, for ``with``.

    Args:
        port: 0 takes a free one.
        fault: how it fails from its first request on.
        keeps: the server that stood here before, whose data is this one's.
        dies_after: it goes away, connections included, when it has answered this many requests.
    """

    def __init__(
        self,
        port: int = 0,
        fault: Fault = Fault.NONE,
        keeps: WandbServer | None = None,
        dies_after: int | None = None,
    ) -> None:
        self.fault = fault
        self.keys: set[str] = set()
        self.n_refused = 0
        self._dies_after = dies_after
        self.n_requests = self.n_posts = 0
        self._on_request: dict[int, Callable[[], None]] = {}
        self.lock = threading.Lock()
        self.closed = threading.Event()
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.owner = self
        self.port = self._http.server_port
        super().__init__(f"http://127.0.0.1:{self.port}", keeps)

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """Stop listening and drop every connection; a second time does nothing."""
        with self.lock:
            if self.closed.is_set():
                return
            self.closed.set()
        self._http.shutdown()
        self._http.server_close()
        self._http.drop_connections()

    def at_request(self, number: int, act: Callable[[], None]) -> None:
        """Do something when this many requests have come, before the last is answered."""
        self._on_request[number] = act

    def begin(self) -> bool:
        """Whether a request is still answered; the first that is not ends the server."""
        with self.lock:
            self.n_requests += 1
            self._on_request.pop(self.n_requests, lambda: None)()
            alive = self._dies_after is None or self.n_requests <= self._dies_after
        if not alive:
            self.die()
        return alive and not self.closed.is_set()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    owner: WandbServer

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: socket.socket, client_address: object) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients drop idle connections; that is no error."""

    def drop_connections(self) -> None:
        for connection in list(self._connections):
            self.shutdown_request(connection)


class _GoneError(Exception):
    """The server has died: this request gets no answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def handle_one_request(self) -> None:
        """Read and answer one request, if this server still does."""
        try:
            super().handle_one_request()
        except _GoneError:
            self.close_connection = True

    def do_GET(self) -> None:
        self._body()
        self._answer({})

    def do_PUT(self) -> None:
        body = self._body()
        with self._state.lock:
            self._state.uploads[urlsplit(self.path).path] = body
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        state = self._state
        state.n_posts += 1
        path = urlsplit(self.path).path
        if state.fault is Fault.SILENT_TO_POSTS:
            state.closed.wait()
        if state.fault is Fault.UNAUTHORISED:
            state.n_refused += 1
            self._answer({"errors": [{"message": "user is not logged in"}]}, 401)
        elif stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            with state.lock:
                state.stream(stream[1], json.loads(body or b"{}"))
            self._answer({"exitcode": None, "limits": {}})
        elif path == "/graphql":
            self._graphql(json.loads(body))
        else:
            self._answer({})

    @property
    def _state(self) -> WandbServer:
        return self.server.owner

    def _body(self) -> bytes:
        if not self._state.begin():
            raise _GoneError
        if self._state.fault is Fault.SILENT:
            self._state.closed.wait()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if scheme := self.headers.get("Authorization", ""):
            self._state.keys.add(base64.b64decode(scheme.removeprefix("Basic ")).decode().removeprefix("api:"))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, answer: object, status: int = 200) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _graphql(self, request: dict) -> None:
        name = request.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", request["query"])[1]
        fault = self._state.fault if name == "upsertView" else Fault.NONE
        if fault is Fault.SILENT_TO_REPORTS:
            self._state.closed.wait()
        if fault is Fault.NO_REPORTS:
            self._state.n_refused += 1
            self._answer({"errors": [{"message": f"no reports for {sorted(self._state.keys)}"}]}, 403)
            return
        with self._state.lock:
            answer = self._state.operate(name, request.get("variables") or {})
        if fault is Fault.FORGETS_ANSWER:
            self._state.closed.wait()
            return
        self._answer({"data": answer})
