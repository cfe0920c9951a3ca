"""Benchmark of the data loader: training from the store against training on one constant batch.

Both kinds of step run in one ``Trainer.fit`` of the runner, through the same module, network, optimiser and callbacks.

*Loader*, and therefore missing from a constant step: drawing the tiles, reading images or cached features, reading
labels, looking up diagnoses, and collation. *Training*, and therefore part of both: the transfer to the device,
augmentation there (with its own random numbers at every step), forward, backward, optimiser, the seeding of every step,
and Lightning's overhead.

Blocks of steps alternate, real and constant. A block's time runs from the end of the step before it to the end of its
last step, so that fetching its batches counts, and load on the machine affects neighbours alike.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from lightning.pytorch import LightningDataModule
from rich.console import Console

from tissuebench.common.progress import ProgressDisplay
from tissuebench.datasets.loading.datamodule import StepLoader, TileDataModule
from tissuebench.datasets.types import TrainingBatch
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.perf.ratios import Rates, Ratio, ratio, show
from tissuebench.plans.expand import PlannedData, expand
from tissuebench.plans.schema import load_plan
from tissuebench.plans.trial import Trial
from tissuebench.run import open_data
from tissuebench.runtime.machine import Machine, detect_machine
from tissuebench.training.build import build_datamodule, build_method
from tissuebench.training.feature_cache import FeatureBank, compute_features, plan_features, training_tiles
from tissuebench.training.fit import fit

GOAL = 0.97
_METHOD = "complementary"
"""The method that reads most: tiles with masks, and as many with a diagnosis."""
_ROUNDS = {EncoderMode.FROZEN: 30, EncoderMode.FINETUNE: 8}
_BLOCK = 10
_BATCHES_AHEAD = 2
"""Batches that a worker of a ``DataLoader`` prefetches."""
_NEVER_MINUTES = 1e6


class HalfConstant(LightningDataModule):
    """Batches of another module in every second block of steps, and its first batch repeatedly in the others."""

    def __init__(self, real: TileDataModule, block: int) -> None:
        super().__init__()
        self._real, self._block = real, block
        self._constant = next(iter(real.train_dataloader()))

    def train_dataloader(self) -> _Alternating:
        """Return a loader with as many steps as the real module has."""
        return _Alternating(self._real.train_dataloader(), self._constant, self._block)

    def on_after_batch_transfer(self, batch: TrainingBatch, dataloader_idx: int) -> TrainingBatch:
        """Apply the real module's augmentation to both kinds of batch."""
        return self._real.on_after_batch_transfer(batch, dataloader_idx)


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
                    features = _features(trial, data, folder, machine, display)
                real, constant = measure(trial, data, features, machine, folder / f"fit-{mode}", display)
                lines.append(ratio(f"samples/s from the store to a constant batch, {mode}", real, constant, GOAL))
    show(f"Training with the data loader, relative (plan {plan_name}, {_METHOD})", lines, console, as_json)
    return lines


def _features(trial: Trial, data: PlannedData, folder: Path, machine: Machine, display: ProgressDisplay) -> FeatureBank:
    folders = []
    for shard in plan_features(trial.network, trial.augmentation, data.store, data.split):
        folders.append(folder / shard.key)
        folders[-1].mkdir()
        title = f"features of the frozen encoder, shard {len(folders)}, tiles"
        told = functools.partial(display.phase, title)
        compute_features(
            folders[-1], shard, trial.network, trial.augmentation, data.store, data.split, machine.device, told
        )
    return FeatureBank(folders, training_tiles(data.store, data.split))


def block_of(machine: Machine) -> int:
    """Return the steps per block: with workers, ten times what they may have prefetched during the constant block."""
    return _BLOCK * max(1, _BATCHES_AHEAD * machine.loader.num_workers)


def measure(
    trial: Trial,
    data: PlannedData,
    features: FeatureBank | None,
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
    block, steps = block_of(machine), trial.training.steps
    method = build_method(trial, data)
    halves = HalfConstant(build_datamodule(trial, method, data, features, machine), block)
    ends: list[float] = []

    def report(step: int) -> None:
        ends.append(time.perf_counter())
        display.phase(f"training, {trial.network.encoder_mode}", step, steps)

    folder.mkdir()
    # ``fit`` uses nothing of a data module but its loader and its hook.
    fit(method, cast("TileDataModule", halves), folder, trial.seed, machine, report, _NEVER_MINUTES)
    per_step = sum(stream.batch_size for stream in method.streams().values())
    return block_rates(ends, block, per_step)


def block_rates(ends: list[float], block: int, per_step: int) -> tuple[Rates, Rates]:
    """Return samples per second, real and constant, from the end of each step in seconds (first: training's start)."""
    rates = block * per_step / np.diff(np.array(ends)[::block])
    return rates[2::2], rates[3::2]
