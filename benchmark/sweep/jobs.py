"""Jobs: tasks of the graph as documents that any worker on any node can run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tissuebench.common.hashing import Json, canonical_json


class TaskKind(StrEnum):
    """Kind of result that a task computes."""

    FEATURES = "features"
    STAGE = "stage"
    TRIAL = "trial"


class Outcome(StrEnum):
    """Outcome of a task, as reported to its runner.

    ``done`` (its artefact is stored), ``failed`` (it raised; the worker kept the reason), ``interrupted`` (it was asked
    to stop and handed back after a checkpoint), ``held`` (another process is running it), ``lost`` (its process was
    killed or its node is gone), ``stalled`` (ended for lack of progress), ``memory`` (ended for using too much memory).
    """

    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    HELD = "held"
    LOST = "lost"
    STALLED = "stalled"
    MEMORY = "memory"


class State(StrEnum):
    """State of a task, as shown to users."""

    WAITING = "waiting"
    RUNNING = "running"
    ELSEWHERE = "elsewhere"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Job:
    """One task to run.

    Attributes:
        key: content hash of the task; also the name of its folder.
        kind: kind of result that it computes.
        title: title for users.
        home: folder with ``data/`` and ``runs/``, at the same path on every node.
        document: everything a worker needs to run it.
    """

    key: str
    kind: TaskKind
    title: str
    home: Path
    document: Mapping[str, Json]

    def to_json(self) -> str:
        """Return the job as one line of JSON."""
        fields: dict[str, Json] = {
            "key": self.key,
            "kind": self.kind.value,
            "title": self.title,
            "home": str(self.home.absolute()),
            "document": self.document,
        }
        return canonical_json(fields)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Parse the output of ``to_json``."""
        fields = json.loads(text)
        return cls(fields["key"], TaskKind(fields["kind"]), fields["title"], Path(fields["home"]), fields["document"])


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that ended: its outcome, a line with the reason, and the seconds it took."""

    key: str
    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0

    def to_json(self) -> str:
        """Return the object as one line of JSON."""
        return canonical_json(
            {"key": self.key, "outcome": self.outcome.value, "detail": self.detail, "seconds": self.seconds}
        )

    @classmethod
    def from_json(cls, text: str) -> Ended:
        """Parse the output of ``to_json``."""
        fields = json.loads(text)
        return cls(fields["key"], Outcome(fields["outcome"]), fields["detail"], fields["seconds"])
