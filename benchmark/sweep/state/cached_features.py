"""Cached features on disk: what lies in ``runs/features``, who uses it, and how to remove it. Never imports torch."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tissuebench.errors import ConfigError, unknown_name
from tissuebench.sweep.jobs import Job, TaskKind
from tissuebench.sweep.state.folders import JOB, LEASE, RECORD, task_folder
from tissuebench.sweep.state.leases import Lease, acquire, holder_of
from tissuebench.sweep.state.record import all_sweeps

_DAY_SECONDS = 86400.0
_WEIGHTS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class CachedShard:
    """One shard of features on disk, finished or not.

    Attributes:
        dataset: name of its dataset.
        encoder: name of its encoder.
        weights: beginning of the hash of the encoder's weights.
        of: ``tiles``, or ``windows of test`` or another part.
        n_bytes: bytes of its files.
        last_used: seconds since the epoch.
        is_in_use: whether a task that runs computes or reads it, or another task of a running sweep needs it.
    """

    folder: Path
    dataset: str
    encoder: str
    weights: str
    of: str
    n_bytes: int
    last_used: float
    is_in_use: bool


@dataclass(frozen=True, slots=True)
class CachedFeatures:
    """Shards on disk that differ in nothing but their regions; attributes as for ``CachedShard``."""

    dataset: str
    encoder: str
    weights: str
    of: str
    shards: int
    n_bytes: int
    last_used: float
    is_in_use: bool


@dataclass(frozen=True, slots=True)
class Cleared:
    """Shards and bytes that were removed, and those that were to be removed but are in use."""

    shards: int
    n_bytes: int
    kept_shards: int
    kept_bytes: int


def cached_shards(home: Path) -> list[CachedShard]:
    """Return all shards of features in a home folder; folders that no worker made are left out."""
    used = _keys_in_use(home)
    found = []
    for folder in sorted(_room(home).glob("*")):
        job = _job(folder)
        if job is None:
            continue
        try:
            trial: Any = job.document["trial"]
            shard: Any = job.document["shard"]
            of = f"windows of {shard['part']}" if shard["of"] == "windows" else str(shard["of"])
            names = (trial["dataset"], shard["encoder"], shard["weights"][:_WEIGHTS_SHOWN], of)
        except (KeyError, TypeError):
            continue
        files = [path for path in folder.iterdir() if path.is_file()]
        stamp = folder / RECORD if (folder / RECORD).is_file() else folder
        n_bytes = sum(path.stat().st_size for path in files)
        in_use = job.key in used or holder_of(folder) is not None
        found.append(CachedShard(folder, *names, n_bytes, stamp.stat().st_mtime, in_use))
    return found


def cached_features(home: Path) -> list[CachedFeatures]:
    """Return the features in a home folder, the largest first."""
    groups: dict[tuple[str, str, str, str], list[CachedShard]] = defaultdict(list)
    for shard in cached_shards(home):
        groups[shard.dataset, shard.encoder, shard.weights, shard.of].append(shard)
    features = [
        CachedFeatures(
            *names,
            shards=len(shards),
            n_bytes=sum(shard.n_bytes for shard in shards),
            last_used=max(shard.last_used for shard in shards),
            is_in_use=any(shard.is_in_use for shard in shards),
        )
        for names, shards in groups.items()
    ]
    return sorted(features, key=lambda each: -each.n_bytes)


def clear_features(
    home: Path, encoder: str | None = None, dataset: str | None = None, unused_for_days: float = 0.0
) -> Cleared:
    """Remove features, except those in use; a later run that needs them computes them again.

    Args:
        home: folder with ``runs/``.
        encoder: only features by this encoder.
        dataset: only features of this dataset.
        unused_for_days: only features that no task has used for so long.

    Raises:
        ConfigError: there are no features by this encoder or of this dataset.
    """
    shards = cached_shards(home)
    for option, name, known in (
        ("--encoder", encoder, {shard.encoder for shard in shards}),
        ("--dataset", dataset, {shard.dataset for shard in shards}),
    ):
        if name is not None and name not in known:
            raise ConfigError(f"{option}: {unknown_name('name in the cache', name, known)}")
    before = time.time() - unused_for_days * _DAY_SECONDS
    chosen = [
        shard
        for shard in shards
        if encoder in (None, shard.encoder) and dataset in (None, shard.dataset) and shard.last_used <= before
    ]
    removed = [shard for shard in chosen if not shard.is_in_use and _remove(shard.folder)]
    kept = [shard for shard in chosen if shard not in removed]
    return Cleared(len(removed), _bytes(removed), len(kept), _bytes(kept))


def _remove(folder: Path) -> bool:
    """Remove a shard, unless a worker has just begun with it."""
    lease = acquire(folder, lambda: None)
    if not isinstance(lease, Lease):
        return False
    (folder / RECORD).unlink(missing_ok=True)  # first, so that half a shard is never taken for a whole one
    shutil.rmtree(folder)
    return True


def _keys_in_use(home: Path) -> set[str]:
    """Return the features that running tasks need, and other tasks of the sweeps that these belong to."""
    running: set[str] = set()
    used: set[str] = set()
    for folder in _leased(home):
        running.add(folder.name)
        if (job := _job(folder)) is not None:
            for name in ("features", "windows"):
                keys: Any = job.document.get(name, ())
                used |= set(keys)
    for sweep in all_sweeps(home) if running else ():
        if any(task.key in running for task in sweep.tasks):
            used |= {task.key for task in sweep.tasks if task.kind is TaskKind.FEATURES}
    return used


def _leased(home: Path) -> Iterator[Path]:
    """Yield the folders of tasks that run, those of repeated trials included."""
    for runs in (home / "runs", *(home / "runs" / "reruns").glob("*/runs")):
        for lease in runs.glob(f"*/*/{LEASE}"):
            if holder_of(lease.parent) is not None:
                yield lease.parent


def _room(home: Path) -> Path:
    return task_folder(home, TaskKind.FEATURES, "any").parent


def _job(folder: Path) -> Job | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Job.from_json((folder / JOB).read_text())
    return None


def _bytes(shards: Sequence[CachedShard]) -> int:
    return sum(shard.n_bytes for shard in shards)
