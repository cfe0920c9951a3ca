"""Sizes of a sweep's tasks before anything runs: tiles per step, and bytes on disk."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tissuebench.common.hashing import canonical_json
from tissuebench.common.settings import Settings
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.api.stage import Trainable
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.networks.settings import NetworkSettings
from tissuebench.plans.expand import PlannedData
from tissuebench.sweep.estimate.probe import untrained, without_weights
from tissuebench.sweep.graph import SweepTask, stages_of
from tissuebench.sweep.jobs import TaskKind
from tissuebench.training.build import task_of

_MAP_BYTES, _ORIENTATION_BYTES = 2, 1
_MOMENTS = 2


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a stage, or of the last stage of a trial.

    Attributes:
        tiles: tiles of one step, over all streams.
        weights: bytes of its state.
        trained: bytes of the trained parameters, for each of which an optimiser keeps two moments.
    """

    tiles: int
    weights: int
    trained: int


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes that are written: features and weights stay, checkpoints exist while their tasks run."""

    features: int
    weights: int
    checkpoints: int


class Sizes:
    """Sizes of tasks; each kind of stage is built once, with random weights.

    Args:
        data: opened data of each dataset.
    """

    def __init__(self, data: Mapping[str, PlannedData]) -> None:
        self._data = data
        self._built: dict[str, Size] = {}
        self._records: dict[str, int] = {}

    def of(self, task: SweepTask) -> Size:
        """Return the size of a stage or of a trial's last stage."""
        trial = task.trial
        if task.job.kind is TaskKind.TRIAL:
            return self._size(task, find_method(trial.method), trial.config, trial.training)
        stage = next(each for each in stages_of(trial) if each.name == task.job.document["stage"])
        return self._size(task, stage.module, stage.config, stage.training)

    def disk(self, tasks: Iterable[SweepTask], slots: int) -> Disk:
        """Return what these tasks write if as many of them as there are ``slots`` run at once."""
        features, sizes = 0, []
        for task in tasks:
            if task.job.kind is TaskKind.FEATURES:
                features += task.tiles * self._record(task)
            else:
                sizes.append(self.of(task))
        largest = max((size.weights + _MOMENTS * size.trained for size in sizes), default=0)
        return Disk(features, sum(size.weights for size in sizes), largest * min(slots, len(sizes)))

    def _record(self, task: SweepTask) -> int:
        """Return the bytes of a tile's features, all variants."""
        network, store = task.trial.network, self._data[task.trial.dataset].store
        key = canonical_json([task.trial.dataset, network.model_dump(mode="json")])
        if key not in self._records:
            size = store.info.tile_px
            with torch.inference_mode():
                levels = untrained(network, len(store.class_map)).eval().encode(torch.zeros((1, 3, size, size)))
            values = sum(math.prod(level.shape[1:]) for level in levels)
            self._records[key] = network.feature_variants * (values * _MAP_BYTES + _ORIENTATION_BYTES)
        return self._records[key]

    def _size(self, task: SweepTask, kind: type[Trainable[Any]], config: Settings, training: TrainingSettings) -> Size:
        network: NetworkSettings = without_weights(task.trial.network)
        told = task_of(self._data[task.trial.dataset], network, training)
        parts = [task.trial.dataset, kind.__module__, kind.__qualname__]
        key = canonical_json([*parts, *(each.model_dump(mode="json") for each in (config, network, training))])
        if key not in self._built:
            module = kind(told, config)
            self._built[key] = Size(
                tiles=sum(stream.batch_size for stream in module.streams().values()),
                weights=sum(each.numel() * each.element_size() for each in module.state_dict().values()),
                trained=sum(each.numel() * each.element_size() for each in module.parameters() if each.requires_grad),
            )
        return self._built[key]
