"""Lookup of a trial by the beginning of its id, and all that is known about it. Reads files only, without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tissuebench.common.hashing import Json
from tissuebench.diagnostics.pseudo_mask_sheet import PICTURE
from tissuebench.diagnostics.snapshot_files import last_snapshot
from tissuebench.errors import ConfigError, DataError
from tissuebench.results.records.curves import Point, read_curves
from tissuebench.results.records.pseudo_mask_quality import layer_scores
from tissuebench.results.records.result_store import Failure, ResultStore
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.comparable import results_folder
from tissuebench.results.tables.panel import panels
from tissuebench.sweep.jobs import Job, State, TaskKind
from tissuebench.sweep.state.failures import read_failure
from tissuebench.sweep.state.folders import JOB, LOG, is_finished, task_folder
from tissuebench.sweep.state.leases import holder_of
from tissuebench.sweep.state.record import SweepRecord, all_sweeps

_SHOWN_AT_MOST = 5


@dataclass(frozen=True, slots=True)
class Found:
    """A task, and the home folder that it belongs to."""

    home: Path
    kind: TaskKind
    key: str

    @property
    def folder(self) -> Path:
        """Folder with its files."""
        return task_folder(self.home, self.kind, self.key)

    @property
    def log(self) -> Path:
        """Path of its worker's log."""
        return self.folder / LOG

    @property
    def job(self) -> Job | None:
        """Job that its worker received, if it was ever started.

        Raises:
            DataError: the file is damaged.
        """
        path = self.folder / JOB
        try:
            return Job.from_json(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a usable job ({error}); delete it and run its plan again") from error

    @property
    def state(self) -> State:
        """State of the task."""
        held = holder_of(self.folder) is not None  # checked before the artefact, which is written first
        if is_finished(self.home, self.kind, self.key):
            return State.DONE
        if held:
            return State.RUNNING
        if read_failure(self.home, self.kind, self.key) is not None:
            return State.FAILED
        skipped = (
            self.kind is TaskKind.TRIAL and ResultStore(results_folder(self.home)).failure_path(self.key).is_file()
        )
        return State.SKIPPED if skipped else State.WAITING


def find_trial(home: Path, prefix: str) -> Found:
    """Return the trial whose id begins with ``prefix``.

    Raises:
        ConfigError: there is none, or more than one.
    """
    key = _the_one("trial", prefix, _trial_ids(home), home)
    return Found(home, TaskKind.TRIAL, key)


def find_logged(home: Path, prefix: str) -> Found:
    """Return the trial whose id, or else the shared task whose key, begins with ``prefix``.

    Raises:
        ConfigError: there is none, or more than one.
    """
    shared = {task.key: task.kind for sweep in all_sweeps(home) for task in sweep.tasks}
    keys = [key for key, kind in shared.items() if kind is not TaskKind.TRIAL]
    key = _the_one("trial", prefix, [*_trial_ids(home), *keys], home)
    return Found(home, shared.get(key, TaskKind.TRIAL), key)


def _the_one(kind: str, prefix: str, keys: Iterable[str], home: Path) -> str:
    found = sorted({key for key in keys if key.startswith(prefix)})
    if prefix in found:
        return prefix
    if not found:
        raise ConfigError(f"no {kind} {prefix!r} in {home / 'runs'}; list the keys with 'tissuebench status --json'")
    if len(found) > 1:
        shown = ", ".join(found[:_SHOWN_AT_MOST]) + (", ..." if len(found) > _SHOWN_AT_MOST else "")
        raise ConfigError(f"{kind} {prefix!r} is ambiguous: {shown}; type more characters")
    return found[0]


def _trial_ids(home: Path) -> Iterator[str]:
    results = results_folder(home)
    for pattern in (results.glob("*.parquet"), (results / "failures").glob("*.json")):
        yield from (path.stem for path in pattern if not path.name.startswith("."))
    yield from (path.name for path in (home / "runs" / "trials").glob("*") if path.is_dir())
    for sweep in all_sweeps(home):
        yield from (task.key for task in sweep.tasks if task.kind is TaskKind.TRIAL)


def scores_of(result: TrialResult) -> dict[str, float]:
    """Return every score over all slides, as in a table; NaN for a class that the truth does not have."""
    (panel,) = panels([result])
    (cell,) = panel.cells.values()
    values = cell.measures(np.ones((1, len(cell.patients))))[0, 0]
    return dict(zip([*cell.metrics, *cell.distances], values.tolist(), strict=True))


def pseudo_pictures(found: Found) -> dict[str, Path]:
    """Return the pictures that compare the pseudo-masks of a trial's stages with withheld masks, by the stage's name.

    Raises:
        DataError: the trial's job is damaged.
    """
    pictures = {name: task_folder(found.home, TaskKind.STAGE, key) / PICTURE for name, key in _stages(found.job)}
    return {name: path for name, path in pictures.items() if path.is_file()}


def snapshots_of(found: Found) -> dict[str, tuple[Mapping[str, float], Path]]:
    """Return figures and picture of the last snapshot of each of a trial's stages that has any, by the stage's name.

    Raises:
        DataError: the trial's job is damaged.
    """
    seen = {name: last_snapshot(task_folder(found.home, TaskKind.STAGE, key)) for name, key in _stages(found.job)}
    return {name: look for name, look in seen.items() if look is not None}


def curves_of(found: Found) -> dict[str, dict[str, tuple[Point, ...]]]:
    """Return the curves of a trial's stages by the stage's name, in order, and those of its last stage under "".

    Raises:
        DataError: the trial's job, or a file of curves, is damaged.
    """
    folders = {name: task_folder(found.home, TaskKind.STAGE, key) for name, key in _stages(found.job)}
    return {name: read_curves(folder) for name, folder in {**folders, "": found.folder}.items()}


def describe_trial(found: Found) -> dict[str, Json]:
    """Return everything known about a trial; unknown values are null.

    Raises:
        DataError: a file is damaged.
    """
    store = ResultStore(results_folder(found.home))
    result = next(iter(store.load([found.key])), None)
    job = found.job
    trial: dict[str, Any] = dict(job.document["trial"]) if job else {}  # type: ignore[arg-type]  # JSON that we wrote
    identity: dict[str, Any] = dict(result.identity) if result else {}
    settings = {name: identity.get(name, trial.get(name)) for name in _SETTINGS}
    title = job.title if job else _title(found, all_sweeps(found.home))
    budget = trial.get("budget", {})
    state = found.state
    environment: dict[str, Any] = dict(result.environment) if result else {}
    notes = environment.pop("notes", [])
    return {
        "trial": found.key,
        "title": title,
        "state": state.value,
        "holder": str(holder_of(found.folder)) if state is State.RUNNING else None,
        "dataset": result.dataset if result else trial.get("dataset"),
        "method": result.method if result else trial.get("method"),
        "seed": result.seed if result else trial.get("seed"),
        "budget": {
            "spec": result.budget if result else budget.get("spec"),
            "replicate": result.replicate if result else budget.get("replicate"),
            "minutes": result.minutes if result else trial.get("minutes"),
            "patients": budget.get("purchases", {}).get("masks", {}).get("patients"),
        },
        "settings": settings,
        "identity": {name: identity[name] for name in _HASHES if name in identity},
        "scores": _finite(scores_of(result)) if result and state is State.DONE else None,
        "pseudo_masks": _pseudo_masks(found, result),
        "snapshots": {
            name: {"figures": dict(seen), "picture": str(path)} for name, (seen, path) in snapshots_of(found).items()
        },
        "curves": _last_values(curves_of(found)),
        "seconds": result.seconds if result else None,
        "compute": result.compute if result else None,
        "shared": [_shared(found.home, name, key) for name, key in _needs(job)],
        "environment": environment or None,
        "notes": notes,
        "failure": None if state is State.DONE else _failure(found, store),
        "files": [str(path) for path in _files(found, store)],
    }


def variant_of(found: Found) -> str:
    """Return the name of a trial's method variant, also of one that has no result yet; its id if it was never started.

    Raises:
        DataError: a file is damaged.
    """
    store = ResultStore(results_folder(found.home))
    if (result := next(iter(store.load([found.key])), None)) is not None:
        return result.method
    if (job := found.job) is None:
        return found.key
    trial: Any = job.document["trial"]
    return job.title.rpartition(f" {trial['budget']['spec']}")[0] or job.title


def _last_values(curves: Mapping[str, Mapping[str, Sequence[Point]]]) -> dict[str, Json]:
    """Return the last point of each curve, by stage and metric; a value that is not finite is null."""
    return {
        stage: {
            metric: {"step": points[-1][0], "value": points[-1][1] if math.isfinite(points[-1][1]) else None}
            for metric, points in of_stage.items()
            if points
        }
        for stage, of_stage in curves.items()
        if any(of_stage.values())
    }


_SETTINGS = ("config", "network", "training", "augmentation", "evaluation")
_HASHES = ("protocol", "store", "split", "budget")


def _needs(job: Job | None) -> list[tuple[str, str]]:
    """Return the names and keys of stages, then of shards of features on disk."""
    if job is None:
        return []
    document: dict[str, Any] = dict(job.document)
    in_memory = document["trial"]["network"].get("feature_cache") == "memory"
    shards = () if in_memory else (*document["features"], *document.get("windows", ()))
    return [*_stages(job), *(("features", key) for key in shards)]


def _stages(job: Job | None) -> list[tuple[str, str]]:
    needs: Any = {} if job is None else job.document["needs"]
    return list(needs.items())


def _pseudo_masks(found: Found, result: TrialResult | None) -> dict[str, Json]:
    """Return, by stage, the scores of its layers against withheld masks, and their picture if it still exists."""
    if result is None:
        return {}
    pictures, scores = pseudo_pictures(found), layer_scores(result.pseudo_masks)
    return {
        stage: {
            "tiles": quality.n_tiles,
            "layers": {one.layer: {"miou": one.miou, "coverage": one.coverage} for one in scores if one.stage == stage},
            "picture": str(pictures[stage]) if stage in pictures else None,
        }
        for stage, quality in result.pseudo_masks.items()
    }


def _shared(home: Path, name: str, key: str) -> dict[str, Json]:
    kind = TaskKind.FEATURES if name == "features" else TaskKind.STAGE
    return {"name": name, "key": key, "state": Found(home, kind, key).state.value}


def _title(found: Found, sweeps: Iterable[SweepRecord]) -> str:
    tasks = (task for sweep in sweeps for task in sweep.tasks)
    return next((task.title for task in tasks if task.key == found.key), found.key)


def _failure(found: Found, store: ResultStore) -> dict[str, Json] | None:
    if (failure := read_failure(found.home, found.kind, found.key)) is not None:
        return {"reason": failure.reason, "traceback": failure.traceback}
    path = store.failure_path(found.key)
    if not path.is_file():
        return None
    try:
        skipped = Failure(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: not a usable failure record ({error}); delete it") from error
    return {"reason": skipped.reason, "traceback": skipped.traceback}


def _files(found: Found, store: ResultStore) -> list[Path]:
    result = store.path(found.key)
    inside = sorted(path for path in found.folder.glob("*") if path.is_file() and not path.name.startswith("."))
    return [*([result] if result.is_file() else []), *inside]


def _finite(scores: dict[str, float]) -> dict[str, Json]:
    return {name: None if value != value else round(value, 6) for name, value in scores.items()}
