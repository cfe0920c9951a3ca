"""Repetition of a single trial in its own home folder, and bit-by-bit comparison with the stored result.

The home is ``runs/reruns/<id>``: data and shared stages are links to those of the real home (a missing stage is created
there for good), the trial's own folder and its result are new. A crash leaves the stored result unchanged, and the same
command picks up where it left off.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tissuebench.datasets.ingest.dataset import dataset_folder
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.errors import ConfigError, DataError
from tissuebench.executors.registry import find_executor
from tissuebench.plans.compute import ComputeSettings, Precision
from tissuebench.plans.expand import PlannedData
from tissuebench.plans.trial import Trial
from tissuebench.results.metrics import miou
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.graph import Graph, build_graph
from tissuebench.sweep.jobs import State, TaskKind
from tissuebench.sweep.runner import Runner
from tissuebench.sweep.state.failures import forget_failure, read_failure
from tissuebench.sweep.state.folders import JOB, JOURNAL, LOG
from tissuebench.sweep.view.live import SweepDisplay
from tissuebench.sweep.view.lookup import Found


@dataclass(frozen=True, slots=True)
class Again:
    """Outcome of a rerun.

    Attributes:
        trial: id of the trial.
        stored, again: mIoU, pooled over all slides; None without a result.
        differing: pixels that are counted differently than before; None unless there are two results.
        reason: why it failed; empty if it did not.
    """

    trial: str
    stored: float | None
    again: float | None
    differing: int | None
    reason: str = ""

    @property
    def sentence(self) -> str:
        """One-line summary for users."""
        if self.again is None:
            kept = "" if self.stored is None else "; the stored result is kept"
            return f"{self.trial}: failed this time: {self.reason}{kept}"
        if self.stored is None:
            return f"{self.trial}: finished, mIoU {self.again:.4f}; the result is stored"
        if not self.differing:
            return f"{self.trial}: reproduced bit for bit, mIoU {self.again:.4f}"
        return (
            f"{self.trial}: differs in {self.differing:,} pixels, mIoU {self.again:.4f} against the stored "
            f"{self.stored:.4f} ({self.again - self.stored:+.4f}); the stored result is kept"
        )


def rerun(found: Found, compute: ComputeSettings, shown: Callable[[Graph], SweepDisplay]) -> Again:
    """Run the trial from its stored job, including any tasks that it needs and that are missing.

    A stored result is always kept; if there was none, the new one is stored.

    Raises:
        ConfigError: the trial was never started, is running now, or this release would run a different trial.
        DataError: its data has changed.
        KeyboardInterrupt: interrupted; the same call picks up where it left off.
    """
    if found.state is State.RUNNING:
        raise ConfigError(f"trial {found.key} is running now; 'tissuebench trial log {found.key} --follow' shows it")
    scratch = _scratch(found)
    graph = _graph(found, scratch)
    store, new = ResultStore(results_folder(found.home)), ResultStore(results_folder(scratch))
    with shown(graph) as display, closing(find_executor(compute.executor)(compute, scratch)) as executor:
        summary = Runner(graph, executor, display, compute.retries, retry_failed=True).run()
    stored = next(iter(store.load([found.key])), None)
    again = next(iter(new.load([found.key])), None)
    if again is None:
        return Again(found.key, _miou(stored), None, None, _reason(graph, summary.failed, scratch))
    if stored is None:
        _keep(found, scratch, again, store)
    shutil.rmtree(scratch)
    differing = None if stored is None else _differing(stored, again)
    return Again(found.key, _miou(stored), _miou(again), differing)


def _scratch(found: Found) -> Path:
    home = found.home.absolute() / "runs" / "reruns" / found.key
    (home / "runs").mkdir(parents=True, exist_ok=True)
    links = {home / "data": "../../../data"}
    for shared in ("features", "stages", "pictures"):
        (found.home / "runs" / shared).mkdir(parents=True, exist_ok=True)
        links[home / "runs" / shared] = f"../../../{shared}"
    for link, target in links.items():
        if not link.is_symlink():
            link.symlink_to(target, target_is_directory=True)
    return home


def _graph(found: Found, scratch: Path) -> Graph:
    job = found.job
    if job is None:
        raise ConfigError(f"trial {found.key} was never started; 'tissuebench run' with its plan does that")
    trial = Trial.of_document(job.document["trial"])  # type: ignore[arg-type]  # JSON that we wrote
    if trial.id != found.key:
        raise ConfigError(f"trial {found.key}: this release would run a different trial from its job ({trial.id})")
    folder = dataset_folder(found.home, trial.dataset)
    data = PlannedData(TileStore(folder / "store.zarr"), Split.read(folder / "split.json"))
    if (data.store.content_hash, data.split.sha256) != (trial.store_sha256, trial.split_sha256):
        raise DataError(f"{folder}: store or split is not the one that trial {found.key} was run on")
    precision = Precision(str(job.document.get("precision", Precision.AUTO)))
    return build_graph([trial], data, scratch, precision=precision)


def _keep(found: Found, scratch: Path, result: TrialResult, store: ResultStore) -> None:
    """Move the new files to the real home, the result last; log and journal are appended to those of the failure."""
    made = Found(scratch, found.kind, found.key).folder
    for path in sorted(made.iterdir()):
        if path.name in (LOG, JOURNAL):
            with (found.folder / path.name).open("ab") as file:
                file.write(path.read_bytes())
        elif path.name != JOB:
            if path.is_dir():
                shutil.rmtree(found.folder / path.name, ignore_errors=True)
            path.replace(found.folder / path.name)
    store.write(result)
    forget_failure(found.home, TaskKind.TRIAL, found.key)


def _reason(graph: Graph, failed: tuple[str, ...], scratch: Path) -> str:
    reasons = (read_failure(scratch, graph[key].job.kind, key) for key in failed)
    return next((failure.reason for failure in reasons if failure is not None), "it left no result")


def _miou(result: TrialResult | None) -> float | None:
    return None if result is None else float(miou(result.counts.sum(0)))


def _differing(one: TrialResult, other: TrialResult) -> int:
    if one.slide_ids != other.slide_ids or one.classes != other.classes:
        raise DataError(f"trial {one.trial_id}: the stored result has other slides or classes; delete it")
    return int(np.abs(one.counts - other.counts).sum()) // 2
