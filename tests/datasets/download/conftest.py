"""Starts servers to fetch from, and stops them after the test."""

from __future__ import annotations

import threading
from http.server import ThreadingHTTPServer

import pytest

from tests.datasets.download.server import Handler, Served


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []

    def start(body, **how):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.served = Served(body, **how)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server.served, f"http://127.0.0.1:{server.server_port}/data.zip"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
