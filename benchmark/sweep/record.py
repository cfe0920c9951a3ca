"""What a sweep consists of, on disk, for those who look at it from another terminal. Reading never imports torch."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tissuebench.errors import ConfigError, DataError
from tissuebench.files import write_aside
from tissuebench.hashing import Json, content_hash
from tissuebench.sweep.jobs import NodeKind

if TYPE_CHECKING:
    from tissuebench.sweep.graph import Graph

_KEY_LENGTH = 16


@dataclass(frozen=True, slots=True)
class RecordedNode:
    """One node of a sweep: what it is called, how much it is, and what comes before."""

    key: str
    kind: NodeKind
    title: str
    steps: int
    tiles: int
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """The nodes of one sweep; ``started`` in seconds since the epoch, of its latest run."""

    key: str
    title: str
    started: float
    nodes: tuple[RecordedNode, ...]


def write_sweep(home: Path, graph: Graph, title: str) -> str:
    """Write down what a run of this graph consists of; returns the key, which is that of its nodes."""
    nodes = [
        RecordedNode(node.key, node.job.kind, node.job.title, node.steps, node.tiles, node.needs)
        for node in graph.values()
    ]
    key = content_hash(sorted(graph))[:_KEY_LENGTH]
    content: dict[str, Json] = {
        "key": key,
        "title": title,
        "started": time.time(),
        "nodes": [{**asdict(node), "kind": node.kind.value} for node in nodes],
    }
    write_aside(_folder(home) / f"{key}.json", json.dumps(content, indent=1).encode())
    return key


def latest_sweep(home: Path, key: str | None = None) -> SweepRecord:
    """The sweep whose key begins so, or the one that was started last.

    Raises:
        ConfigError: there is none.
        DataError: its file is damaged.
    """
    paths = sorted(_folder(home).glob("*.json"), key=lambda path: path.stat().st_mtime)
    paths = [path for path in paths if key is None or path.stem.startswith(key)]
    if not paths:
        raise ConfigError(f"{_folder(home)}: no sweep {key or ''}was started here; 'tissuebench run' starts one")
    try:
        content = json.loads(paths[-1].read_text())
        nodes = tuple(
            RecordedNode(**{**node, "kind": NodeKind(node["kind"]), "needs": tuple(node["needs"])})
            for node in content["nodes"]
        )
        return SweepRecord(content["key"], content["title"], content["started"], nodes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{paths[-1]}: not a usable record of a sweep ({error}); delete it") from error


def _folder(home: Path) -> Path:
    return home / "runs" / "sweeps"
