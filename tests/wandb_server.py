"""A stand-in for the W&B backend on loopback: what wandb 0.31 asks for, and the ways a server can fail.

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
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_ENTITY, _TIME = "local", "2026-01-01T00:00:00Z"
_HISTORY, _SUMMARY = "wandb-history.jsonl", "wandb-summary.json"


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


@dataclass
class ReceivedRun:
    """What the server knows of one run.

    Attributes:
        history: lines by their offset, as the server keeps them: a line sent twice to one offset is one line.
        n_lines: history lines received, those that were sent again included.
    """

    project: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    tags: tuple[str, ...] = ()
    config: dict[str, object] = field(default_factory=dict)
    summary: dict[str, object] = field(default_factory=dict)
    history: dict[int, dict[str, object]] = field(default_factory=dict)
    n_lines: int = 0
    n_completed: int = 0
    exit_code: int | None = None

    def curve(self, key: str) -> dict[int, object]:
        """Step -> value of one logged quantity."""
        return {row["_step"]: row[key] for row in self.history.values() if key in row}


@dataclass
class ReceivedReport:
    """What the server knows of one report: who it belongs to, and the last that was saved over it.

    Attributes:
        n_saved: how often it was.
    """

    entity: str
    project: str
    title: str = ""
    description: str = ""
    kind: str = ""
    spec: dict[str, object] = field(default_factory=dict)
    n_saved: int = 0

    @property
    def text(self) -> str:
        """All of it, to look for words in."""
        return json.dumps(self.spec)


class WandbServer:
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
        self.runs: dict[str, ReceivedRun] = keeps.runs if keeps else {}
        self.uploads: dict[str, bytes] = keeps.uploads if keeps else {}
        self.reports: dict[str, ReceivedReport] = keeps.reports if keeps else {}
        self.operations: Counter[str] = Counter()
        self.unknown: list[str] = []
        self.keys: set[str] = set()
        self.n_refused = 0
        self._dies_after = dies_after
        self.n_requests = 0
        self.lock = threading.Lock()
        self.closed = threading.Event()
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.owner = self
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.port = self._http.server_port

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

    def begin(self) -> bool:
        """Whether a request is still answered; the first that is not ends the server."""
        with self.lock:
            self.n_requests += 1
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
        path = urlsplit(self.path).path
        if state.fault is Fault.SILENT_TO_POSTS:
            state.closed.wait()
        if state.fault is Fault.UNAUTHORISED:
            state.n_refused += 1
            self._answer({"errors": [{"message": "user is not logged in"}]}, 401)
        elif stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            self._stream(stream[1], json.loads(body or b"{}"))
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

    def _stream(self, run_id: str, sent: dict) -> None:
        with self._state.lock:
            run = self._state.runs.setdefault(run_id, ReceivedRun())
            for name, part in (sent.get("files") or {}).items():
                rows = [json.loads(line) for line in part["content"]] if name in (_HISTORY, _SUMMARY) else []
                if name == _HISTORY:
                    run.history.update(enumerate(rows, start=part["offset"]))
                    run.n_lines += len(rows)
                elif name == _SUMMARY:
                    run.summary = rows[-1]
            if sent.get("complete"):
                run.n_completed += 1
                run.exit_code = sent.get("exitcode")

    def _graphql(self, request: dict) -> None:
        name = request.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", request["query"])[1]
        operation = getattr(self, f"_op_{name}", None)
        fault = self._state.fault if name == "upsertView" else Fault.NONE
        if fault is Fault.SILENT_TO_REPORTS:
            self._state.closed.wait()
        if fault is Fault.NO_REPORTS:
            self._state.n_refused += 1
            self._answer({"errors": [{"message": f"no reports for {sorted(self._state.keys)}"}]}, 403)
            return
        with self._state.lock:
            self._state.operations[name] += 1
            if operation is None:
                self._state.unknown.append(name)
            answer = operation(request.get("variables") or {}) if operation else {}
        if fault is Fault.FORGETS_ANSWER:
            self._state.closed.wait()
            return
        self._answer({"data": answer})

    def _op_Viewer(self, _: dict) -> dict:
        viewer = {"id": "u", "entity": _ENTITY, "username": _ENTITY, "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer}

    def _op_ServerFeaturesQuery(self, _: dict) -> dict:
        return {"serverInfo": {"features": []}}

    def _op_OrganizationCoreWeaveOrganizationID(self, _: dict) -> dict:
        return {"entity": {"organization": None}}

    def _op_RunResumeStatus(self, given: dict) -> dict:
        run = self._state.runs.get(given["name"])
        return {"model": {"id": "p", "name": given.get("project"), "bucket": run and self._bucket(given["name"], run)}}

    def _op_UpsertBucket(self, given: dict) -> dict:
        run_id = given.get("name") or base64.b64decode(given["id"]).decode().rpartition(":")[2]
        new = run_id not in self._state.runs
        run = self._state.runs.setdefault(run_id, ReceivedRun())
        run.project = given.get("project") or run.project
        run.group = given.get("groupName") or run.group
        run.job_type = given.get("jobType") or run.job_type
        run.name = given.get("displayName") or run.name
        run.tags = tuple(given.get("tags") or run.tags)
        if given.get("config"):
            run.config = {key: entry["value"] for key, entry in json.loads(given["config"]).items()}
        if given.get("summaryMetrics"):
            run.summary = json.loads(given["summaryMetrics"])
        return {"upsertBucket": {"bucket": self._bucket(run_id, run), "inserted": new}}

    def _bucket(self, run_id: str, run: ReceivedRun) -> dict:
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": _ENTITY}}
        last = [json.dumps(run.history[max(run.history)])] if run.history else []
        return {
            "id": base64.b64encode(f"Run:v1:{run_id}".encode()).decode(),
            "name": run_id,
            "displayName": run.name or run_id,
            "sweepName": None,
            "projectId": "1",
            "project": project,
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.history),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyTail": json.dumps(last),
            "eventsTail": "[]",
            "tags": list(run.tags),
            "wandbConfig": '{"t": 1}',
        }

    def _op_CreateRunFiles(self, given: dict) -> dict:
        names = given.get("files", [])
        files = [{"name": name, "uploadUrl": self._store(given.get("run", "run"), name)} for name in names]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def _op_ArtifactType(self, _: dict) -> dict:
        return {"project": {"artifact": None}}

    def _op_CreateArtifact(self, _: dict) -> dict:
        artifact_id = f"A{self._state.operations['CreateArtifact']}"
        sequence = {"id": f"S{artifact_id}", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": artifact_id, "state": "PENDING", "artifactSequence": sequence}}}

    def _op_CreateArtifactManifest(self, given: dict) -> dict:
        url = self._store("manifest", given.get("artifactID", "x"))
        file = {"id": "F", "name": "wandb_manifest.json", "displayName": "m", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "M", "file": file}}}

    def _op_CreateArtifactFiles(self, given: dict) -> dict:
        edges = [
            {
                "node": {
                    "id": f"F{number}",
                    "name": spec["name"],
                    "displayName": spec["name"],
                    "uploadUrl": self._store("artifact", spec["name"]),
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "storagePath": f"artifact/{spec['name']}",
                    "artifact": {"id": spec.get("artifactID")},
                }
            }
            for number, spec in enumerate(given.get("artifactFiles") or given["input"]["artifactFiles"])
        ]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _op_CommitArtifact(self, given: dict) -> dict:
        return {"commitArtifact": {"artifact": {"id": given.get("artifactID"), "digest": "d"}}}

    def _store(self, kind: str, name: str) -> str:
        return f"{self._state.url}/storage/{kind}/{name}"

    def _op_GetDefaultEntity(self, _: dict) -> dict:
        return {"viewer": {"id": "u", "entity": _ENTITY}}

    def _op_GetProjects(self, _: dict) -> dict:
        person = {"id": "u", "entity": _ENTITY, "username": _ENTITY, "name": _ENTITY, "email": "a@b.c", "admin": False}
        none = {"edges": []}
        person |= {"flags": "{}", "teams": none, "apiKeys": none, "deletedAt": None}
        shared = {"__typename": "Project", "id": "p", "createdAt": _TIME, "isBenchmark": False, "user": person}
        names = sorted({run.project for run in self._state.runs.values()})
        edges = [{"node": {**shared, "name": name, "entityName": _ENTITY}} for name in names]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": edges}}

    def _op_ProjectInternalId(self, given: dict) -> dict:
        known = any(run.project == given["projectName"] for run in self._state.runs.values())
        return {"project": {"id": "p", "internalId": "UHJvamVjdDox"} if known else None}

    def _op_ProjectViews(self, given: dict) -> dict:
        edges = [
            {"node": self._view(view_id, report), "cursor": view_id}
            for view_id, report in self._state.reports.items()
            if (report.entity, report.project, report.kind) == (given["entity"], given["project"], "runs")
        ]
        page = {"endCursor": None, "hasNextPage": False}
        return {"project": {"allViews": {"edges": edges, "pageInfo": page}}}

    def _op_upsertView(self, given: dict) -> dict:
        reports = self._state.reports
        view_id = given.get("id") or f"VmlldzoxMDA{self._state.operations['upsertView']}"
        new = view_id not in reports
        if new and given.get("id"):
            return {"upsertView": None}  # it is gone, or someone else's
        report = reports.setdefault(view_id, ReceivedReport(given["entityName"], given["projectName"]))
        report.title, report.description, report.kind = given["displayName"], given["description"], given["type"]
        report.spec = json.loads(given["spec"])
        report.n_saved += 1
        return {"upsertView": {"view": self._view(view_id, report), "inserted": new}}

    def _view(self, view_id: str, report: ReceivedReport) -> dict:
        project = {"id": "p", "name": report.project, "entityName": report.entity}
        return {
            "id": view_id,
            "type": report.kind,
            "name": view_id.lower(),
            "displayName": report.title,
            "description": report.description,
            "project": project,
            "user": {"username": _ENTITY, "photoUrl": "", "email": "a@b.c"},
            "spec": report.text,
            "createdAt": _TIME,
            "updatedAt": _TIME,
        }
