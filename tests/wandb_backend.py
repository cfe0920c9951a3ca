"""A stand-in for W&B's data: runs and reports as received, and answers to the GraphQL operations of wandb 0.31."""

from __future__ import annotations

import base64
import json
from collections import Counter
from dataclasses import dataclass, field

_ENTITY, _TIME = "local", "2026-01-01T00:00:00Z"
_HISTORY, _SUMMARY = "wandb-history.jsonl", "wandb-summary.json"


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


class WandbBackend:
    """Runs, uploads and reports that were sent, and the operations that were asked for.

    Args:
        url: where uploads are to be sent.
        keeps: the backend whose data is this one's.
    """

    def __init__(self, url: str, keeps: WandbBackend | None = None) -> None:
        self.url = url
        self.runs: dict[str, ReceivedRun] = keeps.runs if keeps else {}
        self.uploads: dict[str, bytes] = keeps.uploads if keeps else {}
        self.reports: dict[str, ReceivedReport] = keeps.reports if keeps else {}
        self.operations: Counter[str] = Counter()
        self.unknown: list[str] = []

    def operate(self, name: str, given: dict) -> dict:
        """Carry out an operation by its name and variables; one that is not known is noted."""
        operation = getattr(self, f"_op_{name}", None)
        self.operations[name] += 1
        if operation is None:
            self.unknown.append(name)
        return operation(given) if operation else {}

    def stream(self, run_id: str, sent: dict) -> None:
        """Take in what a run streams: lines of its history, its summary, its end."""
        run = self.runs.setdefault(run_id, ReceivedRun())
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

    def _op_Viewer(self, _: dict) -> dict:
        viewer = {"id": "u", "entity": _ENTITY, "username": _ENTITY, "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer}

    def _op_ServerFeaturesQuery(self, _: dict) -> dict:
        return {"serverInfo": {"features": []}}

    def _op_OrganizationCoreWeaveOrganizationID(self, _: dict) -> dict:
        return {"entity": {"organization": None}}

    def _op_RunResumeStatus(self, given: dict) -> dict:
        run = self.runs.get(given["name"])
        return {"model": {"id": "p", "name": given.get("project"), "bucket": run and self._bucket(given["name"], run)}}

    def _op_UpsertBucket(self, given: dict) -> dict:
        run_id = given.get("name") or base64.b64decode(given["id"]).decode().rpartition(":")[2]
        new = run_id not in self.runs
        run = self.runs.setdefault(run_id, ReceivedRun())
        run.project = given.get("project") or run.project
        run.group = given.get("groupName") or run.group
        run.job_type = given.get("jobType") or run.job_type
        run.name = given.get("displayName") or run.name
        run.tags = tuple(given.get("tags") or run.tags)
        if given.get("config"):
            run.config = {key: entry["value"] for key, entry in json.loads(given["config"]).items()}
        if given.get("summaryMetrics"):
            run.summary = json.loads(given["summaryMetrics"])
        bucket = self._bucket(run_id, run)
        if not given.get("id"):  # not resumed: it is sent anew from its first line, over those that are there
            bucket["historyLineCount"] = 0
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

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
        artifact_id = f"A{self.operations['CreateArtifact']}"
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
        return f"{self.url}/storage/{kind}/{name}"

    def _op_GetDefaultEntity(self, _: dict) -> dict:
        return {"viewer": {"id": "u", "entity": _ENTITY}}

    def _op_GetProjects(self, _: dict) -> dict:
        person = {"id": "u", "entity": _ENTITY, "username": _ENTITY, "name": _ENTITY, "email": "a@b.c", "admin": False}
        none = {"edges": []}
        person |= {"flags": "{}", "teams": none, "apiKeys": none, "deletedAt": None}
        shared = {"__typename": "Project", "id": "p", "createdAt": _TIME, "isBenchmark": False, "user": person}
        names = sorted({run.project for run in self.runs.values()})
        edges = [{"node": {**shared, "name": name, "entityName": _ENTITY}} for name in names]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": edges}}

    def _op_ProjectInternalId(self, given: dict) -> dict:
        known = any(run.project == given["projectName"] for run in self.runs.values())
        return {"project": {"id": "p", "internalId": "UHJvamVjdDox"} if known else None}

    def _op_ProjectViews(self, given: dict) -> dict:
        edges = [
            {"node": self._view(view_id, report), "cursor": view_id}
            for view_id, report in self.reports.items()
            if (report.entity, report.project, report.kind) == (given["entity"], given["project"], "runs")
        ]
        page = {"endCursor": None, "hasNextPage": False}
        return {"project": {"allViews": {"edges": edges, "pageInfo": page}}}

    def _op_upsertView(self, given: dict) -> dict:
        reports = self.reports
        view_id = given.get("id") or f"VmlldzoxMDA{self.operations['upsertView']}"
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
