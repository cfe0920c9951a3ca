"""Speed probe of a stage that brings its own network: one training step on random tiles, in this process."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from tissuebench.datasets.types import Supervision, TileBatch, TrainingBatch
from tissuebench.features.shards import without_weights
from tissuebench.methods.api.stage import Stage, Task, Trainable
from tissuebench.methods.networks.weights_file import without_files
from tissuebench.runtime.machine import detect_machine
from tissuebench.runtime.precision import autocast

_TILES = 2  # of each stream; norms need more than one
_MOST_LAYERS = 3  # of pseudo-masks of a tile


@dataclass(frozen=True, slots=True)
class StageProbe:
    """Seconds and floating-point operations of one training step of a stage, per tile."""

    tile: float
    flop: float


def probe_stage(stage: Stage, task: Task) -> StageProbe:
    """Time one training step of a stage that brings its own network, on a few random tiles with random labels.

    Args:
        stage: the stage.
        task: its task; the batch size is replaced by one that fits a small machine.
    """
    machine = detect_machine(task.network.encoder_mode)
    small = task.training.model_copy(update={"batch_size": _TILES})
    task = replace(task, network=without_weights(task.network), training=small)
    module = stage.module(task, without_files(stage.config)).to(machine.device).train()
    batch = TrainingBatch((name, tiles.to(machine.device)) for name, tiles in random_batch(module).items())
    started = time.perf_counter()
    with FlopCounterMode(display=False) as counter:
        with autocast(machine.device, machine.precision):
            loss = module.training_step(batch, 0)
        loss.backward()  # type: ignore[no-untyped-call]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    tiles = sum(stream.batch_size for stream in module.streams().values())
    return StageProbe((time.perf_counter() - started) / tiles, counter.get_total_flops() / tiles)


def random_batch(module: Trainable[Any]) -> TrainingBatch:
    """Return a batch of random tiles with random labels for all streams of a stage."""
    task, random = module.task, torch.Generator().manual_seed(0)
    k, edge = len(task.class_map), task.tile_px

    def labels(*shape: int) -> Tensor:
        return torch.randint(0, k, shape, generator=random)

    made: dict[str, TileBatch] = {}
    for name, stream in module.streams().items():
        n = stream.batch_size
        parts: dict[str, Any] = {"images": torch.rand((n, 3, edge, edge), generator=random)}
        if stream.supervision is Supervision.MASKS:
            parts["masks"] = labels(n, edge, edge)
        elif stream.supervision is Supervision.TAGS:
            parts["tags"] = labels(n, k) > 0
        elif stream.supervision is Supervision.DIAGNOSIS:
            parts["excluded"] = functional.one_hot(labels(n), k).bool()
        if stream.pseudo is not None:
            parts["pseudo_masks"] = labels(n, _MOST_LAYERS, edge, edge)
        made[name] = stream.batch_type(step=0, **parts)
    return TrainingBatch(made)
