"""An HTTP server on the loopback that breaks off, forgets ranges, fails and recovers on demand."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler


@dataclass
class Served:
    """What the server does with its next requests, and what it was asked for."""

    body: bytes
    ranges: bool = True
    etag: str = '"one"'
    content_type: str = "application/zip"
    statuses: list[int] = field(default_factory=list)  # answered before anything else, one a request
    break_after: list[int] = field(default_factory=list)  # bytes sent before the connection is closed, one a request
    lengths: bool = True
    confused: bool = False  # answers a range with 206 from the first byte on
    asked: list[str | None] = field(default_factory=list)  # the Range of every request


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        served = self.server.served
        wanted = self.headers.get("Range")
        served.asked.append(wanted)
        if served.statuses:
            self.send_error(served.statuses.pop(0))
            return
        start = 0
        if served.ranges and wanted and self.headers.get("If-Range", served.etag) == served.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(served.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(served.body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0 if served.confused else start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(served.body) - 1}/{len(served.body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", served.content_type)
        if served.lengths:
            self.send_header("Content-Length", str(len(served.body) - start))
        if served.etag:
            self.send_header("ETag", served.etag)
        self.end_headers()
        end = len(served.body)
        if served.break_after:
            end = min(end, start + served.break_after.pop(0))
        self.wfile.write(served.body[start:end])
        self.close_connection = True

    def log_message(self, *_):
        pass
