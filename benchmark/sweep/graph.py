"""Graph of a sweep: trials, and the stages and features that they share; a shared one appears once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tissuebench.common.hashing import Json
from tissuebench.common.own_settings import in_place_of
from tissuebench.common.protocol import PROTOCOL_VERSION
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.errors import ConfigError, unknown_name
from tissuebench.features.shards import FeatureShard
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.api.stage import Stage
from tissuebench.methods.networks.settings import FeatureCache
from tissuebench.plans.compute import Precision
from tissuebench.plans.expand import PlannedData
from tissuebench.plans.schema import Plan, Tracking
from tissuebench.plans.trial import Trial, identity_of_network, identity_of_settings, identity_of_training, short_hash
from tissuebench.sweep.feature_needs import FeatureNeeds
from tissuebench.sweep.jobs import Job, TaskKind
from tissuebench.training.checkpoint_selection import held_out_patients

_LAST = ("selection_share", "selection_every")
"""Settings that only the last stage of a trial uses."""


@dataclass(frozen=True, slots=True)
class SweepTask:
    """One task: what a worker runs, which tasks must finish before, and its amount of work.

    Attributes:
        job: the job for a worker.
        needs: keys of the tasks that must finish before.
        steps: optimiser steps; 0 for features.
        tiles: tiles or windows to encode, the latter at most; 0 for other tasks.
        trial: the trial of a trial task; for a shared task, one trial that needs it.
        n_bytes: bytes of features, for windows at most; 0 for other tasks.
    """

    job: Job
    needs: tuple[str, ...]
    steps: int
    tiles: int
    trial: Trial
    n_bytes: int = 0

    @property
    def key(self) -> str:
        """Content hash; also the name of its folder."""
        return self.job.key


class Graph(Mapping[str, SweepTask]):
    """Tasks by key, each after those that it needs: features first, then stages, then trials in the plan's order."""

    def __init__(self, tasks: Mapping[str, SweepTask]) -> None:
        rank = {kind: place for place, kind in enumerate(TaskKind)}
        self._tasks = dict(sorted(tasks.items(), key=lambda item: rank[item[1].job.kind]))

    def __getitem__(self, key: str) -> SweepTask:
        return self._tasks[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def of_kind(self, kind: TaskKind) -> list[SweepTask]:
        """Return the tasks of one kind."""
        return [task for task in self.values() if task.job.kind is kind]

    @property
    def steps(self) -> int:
        """Optimiser steps that all tasks execute."""
        return sum(task.steps for task in self.values())

    @property
    def independent_steps(self) -> int:
        """Optimiser steps if every trial ran all of its stages itself."""
        return sum(
            trial.training.steps + sum(stage.training.steps for stage in stages_of(trial))
            for trial in (task.trial for task in self.of_kind(TaskKind.TRIAL))
        )

    def dependents(self, key: str) -> set[str]:
        """Return the keys of all tasks that cannot run without this one."""
        found: set[str] = set()
        for task in self.values():  # in order, so that tasks in between come first
            if key in task.needs or found & set(task.needs):
                found.add(task.key)
        return found


@dataclass(frozen=True, slots=True)
class Sweep:
    """A plan ready to run: its trials by dataset, the graph of all of them, and lines for the user."""

    plan: Plan
    trials: Mapping[str, Sequence[Trial]]
    data: Mapping[str, PlannedData]
    graph: Graph
    notes: Sequence[str] = ()


def build_graph(
    trials: Sequence[Trial],
    data: PlannedData,
    home: Path,
    tracking: Collection[Tracking] = (),
    precision: Precision = Precision.AUTO,
) -> Graph:
    """Build the graph of these trials, all of which must use the same dataset.

    Args:
        trials: the trials.
        data: store and split of their dataset.
        home: folder with ``data/`` and ``runs/``.
        tracking: services that workers log to.
        precision: precision that workers compute in.

    Raises:
        ConfigError: a method whose stages contradict each other, or a budget too small to hold out patients for
            checkpoint selection.
    """
    tasks: dict[str, SweepTask] = {}
    settings: dict[str, Json] = {"tracking": list(tracking), "precision": precision.value}
    needed = FeatureNeeds(data)
    for trial in trials:
        # A budget too small is told before training.
        held_out = held_out_patients(trial.budget, trial.training.selection_share)
        kind = find_method(trial.method)
        shards: dict[str, FeatureShard] = {}
        keys: dict[str, str] = {}
        for stage in stages_of(trial):
            key = keys[stage.name] = stage_key(trial, stage, keys)
            if key not in tasks:
                needs = {name: keys[name] for name in stage.needs}
                tiles = _by_key(needed.tiles_of(trial, stage, held_out_of(trial, stage)))
                tasks[key] = _stage_task(key, trial, stage, needs, list(tiles), home, settings)
                shards |= tiles
        last = Stage(trial.method, kind, trial.config, trial.training, kind.consumes)
        tiles, windows = _by_key(needed.tiles_of(trial, last, held_out)), _by_key(needed.windows_of(trial, kind))
        tasks[trial.id] = _trial_task(trial, keys, list(tiles), list(windows), home, settings)
        if is_on_disk(trial):
            for key, shard in {**shards, **tiles, **windows}.items():
                tasks.setdefault(key, _shard_task(shard, trial, home, precision))
    return Graph(tasks)


def _by_key(shards: Sequence[FeatureShard]) -> dict[str, FeatureShard]:
    return {shard.key: shard for shard in shards}


def is_on_disk(trial: Trial) -> bool:
    """Whether the trial reads features that other tasks compute, rather than computing them in its own process."""
    return trial.network.caches_features and trial.network.feature_cache is not FeatureCache.MEMORY


def stages_of(trial: Trial) -> tuple[Stage, ...]:
    """Return the stages before a trial's last one.

    Raises:
        ConfigError: stage names that are not identifiers or repeat, or a stage that needs a later one or consumes
            labels that the method does not.
    """
    kind = find_method(trial.method)
    stages = tuple(
        replace(stage, training=stage.training.resolved(trial.n_tiles.get(stage.epoch_tiles, 0)))
        for stage in kind.stages(trial.config, trial.shared_training or trial.training)
    )
    seen: list[str] = []
    for stage in stages:
        where = f"method {trial.method!r}: stage {stage.name!r}"
        if not stage.name.isidentifier() or stage.name in seen:
            raise ConfigError(f"{where}: stage names must be unique and consist of letters, digits and '_'")
        missing = next((name for name in stage.needs if name not in seen), None)
        if missing is not None:
            raise ConfigError(f"{where} needs {unknown_name('earlier stage', missing, seen)}")
        if not stage.consumes <= kind.consumes:
            raise ConfigError(
                f"{where} consumes {', '.join(sorted(stage.consumes - kind.consumes))}, which the method does not"
            )
        seen.append(stage.name)
    return stages


def stage_key(trial: Trial, stage: Stage, earlier: Mapping[str, str]) -> str:
    """Return the hash of everything that a stage's result depends on.

    Args:
        trial: a trial that needs the stage.
        stage: a stage of its method.
        earlier: keys of the stages before it, by name.
    """
    training = identity_of_training(stage.training) | {"steps": stage.training.steps}
    identity: dict[str, Json] = {
        "protocol": PROTOCOL_VERSION,
        "dataset": trial.dataset,
        "store": trial.store_sha256,
        "split": trial.split_sha256,
        "stage": stage.name,
        "module": stage.module.kind,
        "config": identity_of_settings(stage.config),
        "training": {name: value for name, value in training.items() if name not in _LAST},
        "annotates": stage.annotates,
        "consumes": sorted(stage.consumes),
        "needs": {name: earlier[name] for name in stage.needs},
        "network": identity_of_network(trial.network, trial.weights_sha256),
        "augmentation": augmentation_of(trial, stage).identity(),
        "budget": trial.budget.sha256 if stage.depends_on_budget else None,
        "held_out": list(held_out_of(trial, stage)),
        "seed": trial.seed,
    }
    return short_hash(identity)


def augmentation_of(trial: Trial, stage: Stage) -> AugmentSettings:
    """Return the augmentation settings of a stage before the last one: its own in place of the plan's."""
    shared = trial.shared_augmentation or trial.augmentation
    return in_place_of(shared, stage.augmentation, f"stage {stage.name!r}: augmentation")


def held_out_of(trial: Trial, stage: Stage) -> tuple[str, ...]:
    """Return the patients on whom the checkpoint is selected; earlier stages may not use their bought labels either."""
    if not stage.depends_on_budget:
        return ()
    return held_out_patients(trial.budget, trial.training.selection_share)


def _shard_task(shard: FeatureShard, trial: Trial, home: Path, precision: Precision) -> SweepTask:
    document: dict[str, Json] = {"trial": trial.document(), "shard": shard.identity, "precision": precision.value}
    what = f"windows of {trial.evaluation.part}" if shard.is_of_windows else "tiles"
    title = f"{what} {shard.number}/{shard.count} by {trial.network.encoder}"
    job = Job(shard.key, TaskKind.FEATURES, title, home, document)
    return SweepTask(job, (), 0, shard.images, trial, shard.n_bytes)


def _stage_task(
    key: str,
    trial: Trial,
    stage: Stage,
    needs: Mapping[str, str],
    features: Sequence[str],
    home: Path,
    settings: Mapping[str, Json],
) -> SweepTask:
    label = f"{stage.name} seed {trial.seed}" + (f" {trial.budget.spec}" if stage.depends_on_budget else "")
    document: dict[str, Json] = {
        "trial": trial.document(),
        "stage": stage.name,
        "needs": dict(needs),
        "features": list(features),
        **settings,
    }
    job = Job(key, TaskKind.STAGE, label, home, document)
    first = features if is_on_disk(trial) else ()
    return SweepTask(job, (*first, *needs.values()), stage.training.steps, 0, trial)


def _trial_task(
    trial: Trial,
    stages: Mapping[str, str],
    features: Sequence[str],
    windows: Sequence[str],
    home: Path,
    settings: Mapping[str, Json],
) -> SweepTask:
    document: dict[str, Json] = {
        "trial": trial.document(),
        "needs": dict(stages),
        "features": list(features),
        "windows": list(windows),
        **settings,
    }
    job = Job(trial.id, TaskKind.TRIAL, trial.label, home, document)
    first = (*features, *windows) if is_on_disk(trial) else ()
    return SweepTask(job, (*first, *stages.values()), trial.training.steps, 0, trial)
