"""Expected seconds of tasks that have not run yet: from stored results of similar tasks, or else from a probe."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tissuebench.common.hashing import Json, canonical_json
from tissuebench.datasets.labels.view import LabelView
from tissuebench.evaluation.stitching import Stitching
from tissuebench.features.shards import TILES, WINDOWS
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.api.stage import Stage
from tissuebench.plans.compute import ComputeSettings
from tissuebench.plans.expand import PlannedData
from tissuebench.plans.trial import Trial, identity_of_settings
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.runtime.environment import describe_environment
from tissuebench.runtime.gpus import slots_of
from tissuebench.sweep.estimate.probe import Probe, probe, with_threads
from tissuebench.sweep.estimate.sizes import Sizes, is_of_windows, stage_of
from tissuebench.sweep.estimate.stage_probe import StageProbe, probe_stage
from tissuebench.sweep.graph import SweepTask
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.folders import JOB, RECORD
from tissuebench.training.build import task_of


@dataclass(frozen=True, slots=True)
class Slots:
    """Number of tasks that run at once, and the resources of each; ``is_here``: whether they run on this machine."""

    count: int
    threads: int
    processes: int
    gpus: int
    is_here: bool

    @classmethod
    def of(cls, compute: ComputeSettings) -> Slots:
        """Return the slots of the plan's executor; for SLURM and Ray, as many as tasks may be queued."""
        if compute.executor == "slurm":
            asked = compute.slurm
            processes = asked.nodes * max(1, asked.gpus_per_node)
            return cls(asked.max_jobs, asked.cpus_per_gpu, processes, asked.gpus_per_node, is_here=False)
        if compute.executor == "ray":
            gpus = compute.ray.gpus
            return cls(compute.ray.max_tasks, compute.ray.cpus, max(1, gpus), gpus, is_here=False)
        slots = slots_of(compute)
        count = 1 if compute.executor == "inline" else len(slots)
        return cls(count, slots[0].threads, slots[0].processes, len(slots[0].gpus), is_here=True)

    def are_like(self, environment: Mapping[str, Json]) -> bool:
        """Return whether a result with this ``environment`` was made on such a slot."""
        there, here = environment.get("gpus"), describe_environment()
        same = (environment.get("threads"), environment.get("processes", 1)) == (self.threads, self.processes)
        if not same or not isinstance(there, list) or len(there) != self.gpus:
            return False
        return not self.is_here or environment.get("processor") == here["processor"]


@dataclass(slots=True)
class _Stored:
    """Seconds of earlier runs.

    Attributes:
        training: per tile of training, by method or stage.
        evaluation: per evaluation, by method.
        encoding: per tile or window of features, by the kind of shard.
    """

    training: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    evaluation: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    encoding: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


class Timer:
    """Expected seconds of the tasks of one dataset.

    Args:
        like: a trial of the sweep, which shares network, training and evaluation with all others.
        data: opened data of the dataset.
        slots: slots that the tasks will run on.
        home: folder with ``runs/``.
        sizes: sizes of the tasks.
    """

    def __init__(self, like: Trial, data: PlannedData, slots: Slots, home: Path, sizes: Sizes) -> None:
        self._trial, self._data, self._slots, self._sizes = like, data, slots, sizes
        self._stored = _stored(home, like, slots)
        self.sources: set[tuple[str, str]] = set()  # basis, and what is based on it
        self.is_probed = False
        self._probed: dict[str, StageProbe] = {}

    def seconds(self, task: SweepTask) -> float:
        """Return the expected seconds of a task from its start to its end."""
        if task.job.kind is TaskKind.FEATURES:
            return task.tiles * self._encoding(WINDOWS if is_of_windows(task) else TILES)
        stage = stage_of(task)
        tiles = task.steps * self._sizes.of(task).tiles
        is_last = task.job.kind is TaskKind.TRIAL
        trained = tiles * self._training(stage.name if is_last else f"stage {stage.name}", task.trial, stage)
        return trained + self._evaluation(task.trial) if is_last else trained

    def flop(self, task: SweepTask) -> float:
        """Return the floating-point operations of a task's training."""
        if task.job.kind is TaskKind.FEATURES:
            return 0.0
        stage = stage_of(task)
        brings = stage.module.brings_network(stage.config)
        of_tile = self._own_probe(task.trial, stage).flop if brings else self._probe.flop
        return task.steps * self._sizes.of(task).tiles * of_tile

    def _training(self, who: str, trial: Trial, stage: Stage) -> float:
        """Return the seconds of training per tile."""
        everybody, brings = self._stored.training, stage.module.brings_network(stage.config)
        others = [] if brings else [each for taken in everybody.values() for each in taken]
        if own := everybody.get(who) or others:
            self.sources.add((_stored_ones(own, "fit"), f"training of {who}"))
            return median(own)
        self._timed("training")
        of_tile = self._own_probe(trial, stage).tile if brings else self._probe.tile
        return of_tile / self._slots.processes

    def _own_probe(self, trial: Trial, stage: Stage) -> StageProbe:
        """Return the cost of a stage that brings its own network."""
        key = f"{stage.module.kind} {canonical_json(identity_of_settings(stage.config))}"
        if key not in self._probed:
            self.is_probed = True
            task = task_of(self._data, trial.network, stage.training)
            with with_threads(self._slots.threads):
                self._probed[key] = probe_stage(stage, task)
        return self._probed[key]

    def _evaluation(self, trial: Trial) -> float:
        everybody = self._stored.evaluation
        if taken := everybody.get(trial.method) or [each for some in everybody.values() for each in some]:
            self.sources.add((_stored_ones(taken, "trial"), "evaluation"))
            return median(taken)
        self._timed("evaluation")
        is_decoded = trial.network.caches_features and find_method(trial.method).can_predict_features(trial.config)
        per_px = self._probe.decoded if is_decoded else self._probe.predicted
        return per_px * self._pixels / self._slots.processes

    @cached_property
    def _pixels(self) -> int:
        """Pixels that pass through the network in an evaluation."""
        slides = LabelView.for_evaluation(self._data.store, self._data.split, self._trial.evaluation.part).slides
        return sum(self._how.work(slide.height, slide.width) for slide in slides)

    @cached_property
    def _how(self) -> Stitching:
        return Stitching.of(self._trial.evaluation, self._data.store.info.tile_px, torch.device("cpu"), "32-true")

    def _encoding(self, of: str) -> float:
        """Return the seconds per tile with all its variants, or per view of a window."""
        if taken := self._stored.encoding.get(of):
            self.sources.add((_stored_ones(taken, "shard"), f"features of {of}"))
            return median(taken)
        self._timed("features")
        if of == TILES:
            return self._probe.encoded
        edge = self._how.window_px / self._data.store.info.tile_px
        return self._probe.encoded / self._trial.network.feature_variants * edge**2

    @cached_property
    def _probe(self) -> Probe:
        self.is_probed = True
        trial, store = self._trial, self._data.store
        with with_threads(self._slots.threads):
            return probe(
                trial.network,
                trial.augmentation,
                trial.training.batch_size,
                store.info.tile_px,
                len(store.class_map),
            )

    def _timed(self, what: str) -> None:
        self.sources.add(("a few steps timed on random tiles", what))


def _stored_ones(taken: Sequence[float], what: str) -> str:
    return f"{len(taken)} stored {what}{'' if len(taken) == 1 else 's'}"


def _stored(home: Path, trial: Trial, slots: Slots) -> _Stored:
    stored = _Stored()
    wanted = trial.identity()
    for result in ResultStore(results_folder(home)).load():
        identity = result.identity
        same = all(identity[name] == wanted[name] for name in ("store", "network"))
        if not same or not slots.are_like(result.environment):
            continue
        if _pace_of(identity["training"]) == _pace_of(wanted["training"]):
            stored.training[str(identity["method"])].append(result.seconds["fit"] / result.compute["samples"])
        if identity["evaluation"] == wanted["evaluation"]:
            stored.evaluation[str(identity["method"])].append(result.seconds["evaluate"])
    document = trial.document()
    for path in (path for room in ("stages", "features") for path in (home / "runs" / room).glob(f"*/{RECORD}")):
        record: dict[str, Any] = json.loads(path.read_text())
        if not slots.are_like(record.get("environment", {})):
            continue
        job: dict[str, Any] = json.loads((path.parent / JOB).read_text())["document"]
        if any(job["trial"].get(name) != document[name] for name in ("network", "weights_sha256", "store_sha256")):
            continue
        if "of" in record:
            if record["tiles"] and job["trial"]["evaluation"] == document["evaluation"]:
                stored.encoding[record["of"]].append(record["seconds"] / record["tiles"])
        else:
            stored.training[f"stage {record['stage']}"].append(record["seconds"] / record["samples"])
    return stored


def _pace_of(training: Any) -> dict[str, Json]:  # noqa: ANN401 - JSON
    """Return the training settings that determine how long a tile takes."""
    return {key: value for key, value in training.items() if key not in ("steps", "learning_rate", "weight_decay")}
