"""Features in a worker: computation of a shard, and the features that a task reads, from disk or from memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tissuebench.common.hashing import Json
from tissuebench.evaluation.stitching import Stitching
from tissuebench.evaluation.window_features import WindowFeatures, plan_windows, window_encoding
from tissuebench.features.records import Encoding, Records, hold_shard, write_shard
from tissuebench.features.shards import WINDOWS, FeatureShard, FrozenEncoder
from tissuebench.features.tiles import TileFeatures, plan_tiles, tile_encoding
from tissuebench.plans.expand import PlannedData
from tissuebench.plans.trial import Trial
from tissuebench.runtime.environment import describe_environment
from tissuebench.runtime.machine import Machine
from tissuebench.sweep.graph import is_on_disk
from tissuebench.sweep.jobs import Job, TaskKind
from tissuebench.sweep.state.folders import RECORD, task_folder, write_record

Report = Callable[[str, int, int], None]
"""Callable that receives the name of a phase, the amount done and the total."""


def run_shard(
    job: Job,
    trial: Trial,
    data: PlannedData,
    folder: Path,
    machine: Machine,
    report: Report,
    may_store: Callable[[], None],
) -> dict[str, Json]:
    """Compute the features of one shard on disk and return their cost; arguments as for ``run_task``."""
    shard: Any = job.document["shard"]
    started = time.perf_counter()
    encoding = _encoding(shard, trial, data, machine)
    write_shard(folder, encoding, partial(report, _phase(shard)))
    regions = sum(batch.n_regions for batch in encoding.batches)
    took: dict[str, Json] = {
        "tiles": regions * (encoding.n_variants if shard["of"] == WINDOWS else 1),  # as in ``SweepTask.tiles``
        "seconds": time.perf_counter() - started,
    }
    may_store()
    write_record(folder, {**took, "of": shard["of"], "environment": describe_environment()})
    return took


def tile_features(
    job: Job, trial: Trial, data: PlannedData, machine: Machine, held: dict[str, Records], report: Report
) -> TileFeatures | None:
    """Return the features of the training tiles that a task can draw; None if it sees images.

    Args:
        job: the task.
        trial: its trial.
        data: store and split.
        machine: device to compute missing features on.
        held: features in the memory of this process, by key; those that are computed are added.
        report: called with the progress of the computation.
    """
    keys: Any = job.document["features"]
    if not keys:
        return None

    def planned(encoder: FrozenEncoder) -> list[FeatureShard]:
        return plan_tiles(encoder, trial.augmentation, data.store, data.split)

    return TileFeatures(_shards(keys, planned, job, trial, data, machine, held, report))


def window_features(
    job: Job, trial: Trial, data: PlannedData, machine: Machine, held: dict[str, Records], report: Report
) -> WindowFeatures | None:
    """Return the features of the windows that a trial predicts; None if it sees images. As ``tile_features``."""
    keys: Any = job.document["windows"]
    if not keys:
        return None

    def planned(encoder: FrozenEncoder) -> list[FeatureShard]:
        return plan_windows(encoder, trial.evaluation, data.store, data.split)

    how = Stitching.of(trial.evaluation, data.store.info.tile_px, machine.device, machine.precision)
    return WindowFeatures(_shards(keys, planned, job, trial, data, machine, held, report), how)


def _shards(
    keys: Sequence[str],
    planned: Callable[[FrozenEncoder], list[FeatureShard]],
    job: Job,
    trial: Trial,
    data: PlannedData,
    machine: Machine,
    held: dict[str, Records],
    report: Report,
) -> list[Path | Records]:
    if is_on_disk(trial):
        folders = [task_folder(job.home, TaskKind.FEATURES, key) for key in keys]
        for folder in folders:
            with suppress(OSError):  # a home that may only be read
                os.utime(folder / RECORD)  # `tissuebench cache` tells by it when they were last used
        return list(folders)
    missing = set(keys) - held.keys()
    for shard in planned(FrozenEncoder(trial.network, len(data.store.class_map))) if missing else ():
        if shard.key in missing:
            encoding = _encoding(shard.identity, trial, data, machine)
            held[shard.key] = hold_shard(encoding, partial(report, _phase(shard.identity)))
    return [held[key] for key in keys]


def _encoding(identity: dict[str, Json], trial: Trial, data: PlannedData, machine: Machine) -> Encoding[Any]:
    of = (data.store, data.split, machine.device)
    if identity["of"] == WINDOWS:
        return window_encoding(identity, trial.network, trial.evaluation, *of, machine.precision)
    return tile_encoding(identity, trial.network, trial.augmentation, *of)


def _phase(identity: dict[str, Json]) -> str:
    return f"encoding {identity['of']}"
