"""Benchmark of what surrounds the network in training: the data loader, and the loggers.

Training from the store is compared with training on one constant batch, and training with all loggers with training
without any. Both kinds of step run in one ``Trainer.fit`` of the runner, through the same module, network, optimiser
and callbacks.

*Loader*, and therefore missing from a constant step: drawing the tiles, reading images or cached features, reading
labels, looking up diagnoses, and collation. *Training*, and therefore part of both: the transfer to the device,
augmentation there (with its own random numbers at every step), forward, backward, optimiser, the seeding of every step,
and Lightning's overhead.

*Logging*: values of the method and of the benchmark are gathered, and written to ``metrics.csv`` and TensorBoard.

Blocks of steps alternate between the two. A block's time runs from the end of the step before it to the end of its
last step, so that fetching its batches counts, and load on the machine affects neighbours alike.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from rich.console import Console

from tissuebench.bench import open_data
from tissuebench.common.progress import ProgressDisplay
from tissuebench.datasets.loading.datamodule import StepLoader, TileDataModule
from tissuebench.datasets.types import TrainingBatch
from tissuebench.features.records import hold_shard
from tissuebench.features.shards import FrozenEncoder
from tissuebench.features.tiles import TileFeatures, plan_tiles, tile_encoding
from tissuebench.methods.api.method import Method
from tissuebench.methods.api.stage import Trainable
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.perf.ratios import Rates, Ratio, ratio, show
from tissuebench.plans.expand import PlannedData, expand
from tissuebench.plans.schema import Tracking, load_plan
from tissuebench.plans.trial import Trial
from tissuebench.runtime.machine import Machine, detect_machine
from tissuebench.training.build import build_datamodule, build_method
from tissuebench.training.fit import fit
from tissuebench.training.loggers import CURVES_ONLY, OpenLoggers, loggers_of

GOAL = 0.97
_METHOD = "complementary"
"""The method that reads most: tiles with masks, and as many with a diagnosis."""
_ROUNDS = {EncoderMode.FROZEN: 30, EncoderMode.FINETUNE: 8}
_BLOCK = 10
_BATCHES_AHEAD = 2
"""Batches that a worker of a ``DataLoader`` prefetches."""
_NEVER_MINUTES = 1e6
_TRACKING = (Tracking.TENSORBOARD,) if find_spec("tensorboard") else ()


class HalfConstant(LightningDataModule):
    """Batches of another module in every second block of steps, and its first batch repeatedly in the others."""

    def __init__(self, real: TileDataModule, block: int) -> None:
        super().__init__()
        self._real, self._block = real, block
        self._constant = next(iter(real.train_dataloader()))

    def train_dataloader(self) -> _Alternating:
        """Return a loader with as many steps as the real module has."""
        return _Alternating(self._real.train_dataloader(), self._constant, self._block)

    def val_dataloader(self) -> list[object]:
        """Return nothing to validate on."""
        return []

    def on_after_batch_transfer(self, batch: TrainingBatch, dataloader_idx: int) -> TrainingBatch:
        """Apply the real module's augmentation to both kinds of batch."""
        return self._real.on_after_batch_transfer(batch, dataloader_idx)


class HalfSilent(Callback):
    """Keeps every second block of steps from logging."""

    def __init__(self, block: int) -> None:
        self._block = block

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Overrule the callback that has asked the method to log."""
        if trainer.global_step // self._block % 2:
            cast("Trainable[Any]", pl_module).logs_step = False


class _Alternating:
    def __init__(self, real: StepLoader, constant: TrainingBatch, block: int) -> None:
        self._real, self._constant, self._block = real, constant, block

    def __iter__(self) -> Iterator[TrainingBatch]:
        batches = iter(self._real)
        for step in range(len(self)):
            if step // self._block % 2 == 0:
                yield next(batches)
            else:
                yield TrainingBatch((name, replace(batch, step=step)) for name, batch in self._constant.items())

    def __len__(self) -> int:
        return len(self._real)


def run(
    console: Console,
    as_json: bool,
    home: Path | None = None,
    dataset: str = "synthetic",
    data_root: Path | None = None,
    plan_name: str = "smoke",
) -> list[Ratio]:
    """Measure with the plan's cached features and with its encoder fine-tuned, and print one table.

    Args:
        console: console for the table; progress goes to standard error.
        as_json: print JSON and nothing else.
        home: folder with the data set, which is created there if missing; None creates it for this run only.
        dataset: data set to train on.
        data_root: its source files.
        plan_name: plan that provides network and training settings.

    Raises:
        TissueBenchError: as for ``tissuebench run``.
    """
    lines = []
    with tempfile.TemporaryDirectory(prefix="tissuebench-perf-") as scratch:
        folder = Path(scratch)
        with ProgressDisplay(Console(stderr=True, highlight=False)) as display:
            data = open_data(dataset, data_root, home or folder, display)
            for mode, rounds in _ROUNDS.items():
                machine = detect_machine(mode)
                steps = 2 * (rounds + 1) * block_of(machine)
                overrides = (f"network.encoder_mode={mode}", f"training.steps={steps}", "seeds=[0]")
                plan = load_plan(plan_name, overrides)
                trial = next(trial for trial in expand(plan, (_METHOD,), data, folder) if trial.method == _METHOD)
                features = None
                if mode is EncoderMode.FROZEN:
                    features = tile_features(trial, data, machine, display)
                parts = (trial, data, features, machine)
                real, constant = measure(*parts, folder / f"fit-{mode}", display)
                lines.append(ratio(f"samples/s from the store to a constant batch, {mode}", real, constant, GOAL))
                logged, silent = measure_logging(*parts, folder / f"log-{mode}", display)
                lines.append(ratio(f"samples/s with {_names(_TRACKING)} to no logger, {mode}", logged, silent, GOAL))
    show(f"Training with data loader and loggers, relative (plan {plan_name}, {_METHOD})", lines, console, as_json)
    return lines


def tile_features(trial: Trial, data: PlannedData, machine: Machine, display: ProgressDisplay) -> TileFeatures:
    """Return the features of all training tiles, computed in memory."""
    held = []
    encoder, of = FrozenEncoder(trial.network, len(data.store.class_map)), (trial.augmentation, data.store, data.split)
    for shard in plan_tiles(encoder, *of):
        title = f"features of the frozen encoder, shard {shard.number} of {shard.count}, tiles"
        encoding = tile_encoding(shard.identity, trial.network, *of, machine.device)
        held.append(hold_shard(encoding, partial(display.phase, title)))
    return TileFeatures(held)


def block_of(machine: Machine) -> int:
    """Return the steps per block: with workers, ten times what they may have prefetched during the constant block."""
    return _BLOCK * max(1, _BATCHES_AHEAD * machine.loader.num_workers)


def measure(
    trial: Trial,
    data: PlannedData,
    features: TileFeatures | None,
    machine: Machine,
    folder: Path,
    display: ProgressDisplay,
) -> tuple[Rates, Rates]:
    """Return samples per second of the blocks with real and with constant batches, without the first of each.

    Args:
        trial: the trial to train; its steps are an even number of blocks.
        data: store and split.
        features: cached features of a frozen encoder.
        machine: machine settings as in the runner.
        folder: a new folder.
        display: shows the steps.
    """
    method, block = build_method(trial, data), block_of(machine)
    halves = HalfConstant(build_datamodule(trial, method, data, features, machine), block)
    # ``fit`` uses nothing of a data module but its loader and its hook.
    return _timed(trial, method, cast("TileDataModule", halves), machine, folder, display)


def measure_logging(
    trial: Trial,
    data: PlannedData,
    features: TileFeatures | None,
    machine: Machine,
    folder: Path,
    display: ProgressDisplay,
) -> tuple[Rates, Rates]:
    """Return samples per second of the blocks with all loggers and with none; takes the arguments of ``measure``."""
    method, block = build_method(trial, data), block_of(machine)
    batches = build_datamodule(trial, method, data, features, machine)
    return _timed(trial, method, batches, machine, folder, display, [HalfSilent(block)], loggers_of(_TRACKING))


def _timed(
    trial: Trial,
    method: Method[Any],
    batches: TileDataModule,
    machine: Machine,
    folder: Path,
    display: ProgressDisplay,
    watchers: Sequence[Callback] = (),
    open_loggers: OpenLoggers = CURVES_ONLY,
) -> tuple[Rates, Rates]:
    ends: list[float] = []

    def report(step: int) -> None:
        ends.append(time.perf_counter())
        display.phase(f"training, {trial.network.encoder_mode}", step, trial.training.steps)

    folder.mkdir()
    fit(
        method,
        batches,
        folder,
        trial.seed,
        machine,
        report,
        _NEVER_MINUTES,
        watchers=watchers,
        open_loggers=open_loggers,
    )
    per_step = sum(stream.batch_size for stream in method.streams().values())
    return block_rates(ends, block_of(machine), per_step)


def _names(tracking: Sequence[Tracking]) -> str:
    return " and ".join(["metrics.csv", *tracking])


def block_rates(ends: list[float], block: int, per_step: int) -> tuple[Rates, Rates]:
    """Return samples per second, real and constant, from the end of each step in seconds (first: training's start)."""
    rates = block * per_step / np.diff(np.array(ends)[::block])
    return rates[2::2], rates[3::2]
