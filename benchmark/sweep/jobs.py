"""A job: one task of the graph as a document that any worker on any machine can run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tissuebench.common.hashing import Json, canonical_json


class TaskKind(StrEnum):
    """What a task computes."""

    FEATURES = "features"
    STAGE = "stage"
    TRIAL = "trial"


class Outcome(StrEnum):
    """How a task ended for the one who started it.

    ``done`` (its artefact is stored), ``failed`` (it raised; the worker kept the reason), ``interrupted`` (asked to
    stop, it handed back after a checkpoint), ``held`` (somebody else is running it), ``lost`` (its process was killed
    or its machine is gone), ``stalled`` (no progress for too long; was ended), ``memory`` (took too much; was ended).
    """

    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    HELD = "held"
    LOST = "lost"
    STALLED = "stalled"
    MEMORY = "memory"


class State(StrEnum):
    """Where a task is for those who look at a sweep."""

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
        kind: what it computes.
        title: what people read.
        home: folder with ``data/`` and ``runs/``, at the same place on every machine.
        document: what a worker needs to run it.
    """

    key: str
    kind: TaskKind
    title: str
    home: Path
    document: Mapping[str, Json]

    def to_json(self) -> str:
        """One line."""
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
        """What ``to_json`` wrote."""
        fields = json.loads(text)
        return cls(fields["key"], TaskKind(fields["kind"]), fields["title"], Path(fields["home"]), fields["document"])


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that ended, how, a line that says why, and how many seconds it took."""

    key: str
    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0

    def to_json(self) -> str:
        """One line."""
        return canonical_json(
            {"key": self.key, "outcome": self.outcome.value, "detail": self.detail, "seconds": self.seconds}
        )

    @classmethod
    def from_json(cls, text: str) -> Ended:
        """What ``to_json`` wrote."""
        fields = json.loads(text)
        return cls(fields["key"], Outcome(fields["outcome"]), fields["detail"], fields["seconds"])
