"""Benchmark of training on a GPU: the share of a bare loop's speed that the whole trainer reaches.

*Whole trainer*: a fit of the runner, with data module, augmentation, seeds, curves and callbacks. *Bare loop*: torch
alone on one augmented batch that stays on the device, with the same network, loss, optimiser, clipping, precision and
memory format.

Blocks of steps alternate between the two, within one fit. Loader workers prefetch while the bare loop runs, so that the
trainer's blocks are much longer than what they can prefetch.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from tissuebench.bench import open_data
from tissuebench.common.progress import ProgressDisplay
from tissuebench.datasets.loading.datamodule import LoaderSettings, TileDataModule
from tissuebench.errors import ConfigError
from tissuebench.methods.api.optimization import build_optimizer
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.methods.supervised import Supervised
from tissuebench.perf.loader import block_of
from tissuebench.perf.ratios import Rates, Ratio, ratio, show
from tissuebench.plans.compute import Precision
from tissuebench.plans.expand import PlannedData, expand
from tissuebench.plans.schema import load_plan
from tissuebench.plans.trial import Trial
from tissuebench.runtime.environment import describe_device
from tissuebench.runtime.machine import Machine, detect_machine
from tissuebench.runtime.precision import FP16, autocast, choose_precision
from tissuebench.training.build import build_datamodule, build_method
from tissuebench.training.fit import fit

GOAL = 0.9
_BARE_STEPS = 10
_NEVER_MINUTES = 1e6


def run(
    console: Console,
    as_json: bool,
    device: str = "cuda",
    encoder: str = "resnet34",
    batch_size: int = 32,
    tile_px: int = 256,
    rounds: int = 5,
    home: Path | None = None,
) -> list[Ratio]:
    """Measure a U-Net on the synthetic cohort, and print one table.

    Args:
        console: console for the table; progress goes to standard error.
        as_json: print JSON and nothing else.
        device: ``cuda`` or ``cpu``; the goal is that of a GPU.
        encoder: a timm name.
        batch_size: tiles per step.
        tile_px: edge of a tile.
        rounds: blocks of each kind; one more before them is not timed.
        home: folder with the data set, which is created there if missing; None creates it for this run only.

    Raises:
        ConfigError: there is no GPU, or no such encoder.
    """
    machine = machine_of(device)
    steps = (rounds + 1) * block_of(machine)
    overrides = (
        f"network.encoder={encoder}", "network.weights=none", "network.encoder_mode=finetune", "network.decoder=unet",
        "network.decoder_channels=256", f"training.batch_size={batch_size}", f"training.steps={steps}",
        "budgets=['masks:3p']", "seeds=[0]",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="tissuebench-perf-") as scratch:
        folder = Path(scratch)
        with ProgressDisplay(Console(stderr=True, highlight=False)) as display:
            data = open_data(f"synthetic@{tile_px}", None, home or folder, display)
            trial = next(
                trial
                for trial in expand(load_plan("smoke", overrides), (Supervised.name,), data, folder)
                if trial.method == Supervised.name
            )
            whole, bare = measure(trial, data, machine, folder / "fit", display)
    goal = GOAL if machine.device.type == "cuda" else None
    lines = [ratio(f"tiles/s of the whole trainer to a bare loop, {machine.precision}", whole, bare, goal)]
    size = f"U-Net on {encoder}, {batch_size} tiles of {tile_px} px"
    show(f"Training on {describe_device(machine.device)}, relative ({size})", lines, console, as_json)
    return lines


def machine_of(device: str) -> Machine:
    """Return the settings for training on ``cuda`` or ``cpu``.

    Raises:
        ConfigError: there is no GPU.
    """
    if device == "cpu":
        cpu = torch.device("cpu")
        precision, _ = choose_precision(cpu, EncoderMode.FINETUNE, Precision.AUTO, allows_float16=False)
        return Machine("cpu", cpu, precision, LoaderSettings())
    if not torch.cuda.is_available():
        raise ConfigError(
            "perf-gpu: no CUDA device (torch.cuda.is_available() is false); --device cpu measures the CPU"
        )
    return detect_machine(EncoderMode.FINETUNE, allows_float16=Supervised.allows_float16(Supervised.Config()))


def measure(
    trial: Trial, data: PlannedData, machine: Machine, folder: Path, display: ProgressDisplay
) -> tuple[Rates, Rates]:
    """Return tiles per second of the whole trainer and of the bare loop, block by block, without the first.

    Args:
        trial: the trial to train; its steps are whole blocks.
        data: store and split.
        machine: device, precision and loader.
        folder: a new folder.
        display: shows the steps.
    """
    method, block = build_method(trial, data), block_of(machine)
    bare = BareLoop(trial, data, machine)
    whole_seconds: list[float] = []
    bare_seconds: list[float] = []
    resumed = 0.0

    def report(step: int) -> None:
        nonlocal resumed
        if step % block:
            return
        if step:
            whole_seconds.append(_now(machine.device) - resumed)
        bare_seconds.append(bare.seconds(_BARE_STEPS))
        display.phase("training", step, trial.training.steps)
        resumed = _now(machine.device)

    folder.mkdir()
    fit(
        method,
        build_datamodule(trial, method, data, None, machine),
        folder,
        trial.seed,
        machine,
        report,
        _NEVER_MINUTES,
    )
    tiles = trial.training.batch_size
    # The bare loop also runs before the first step: the first two of its blocks are left out.
    return block * tiles / np.array(whole_seconds[1:]), _BARE_STEPS * tiles / np.array(bare_seconds[2:])


class BareLoop:
    """Training loop of torch alone, on one augmented batch that stays on the device.

    Args:
        trial: provides method, loss and optimiser.
        data: provides the batch.
        machine: device and precision.
    """

    def __init__(self, trial: Trial, data: PlannedData, machine: Machine) -> None:
        self._device, self._precision, self._clip = machine.device, machine.precision, trial.training.gradient_clip
        self._method = build_method(trial, data).to(machine.device).train()
        self._optimizer = build_optimizer(self._method, trial.training)
        self._scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.precision == FP16)
        here = replace(machine, loader=LoaderSettings())
        batches: TileDataModule = build_datamodule(trial, self._method, data, None, here)
        batch = next(iter(batches.train_dataloader()))
        moved = type(batch)((name, tiles.to(machine.device)) for name, tiles in batch.items())
        self._batch = batches.on_after_batch_transfer(moved, 0)

    def seconds(self, steps: int) -> float:
        """Return the seconds that this many steps take."""
        started = _now(self._device)
        for _ in range(steps):
            with autocast(self._device, self._precision):
                loss = self._method.training_step(self._batch, 0)
            self._optimizer.zero_grad()
            torch.autograd.backward(self._scaler.scale(loss))
            self._scaler.unscale_(self._optimizer)
            if self._clip is not None:
                torch.nn.utils.clip_grad_norm_(self._method.parameters(), self._clip)
            self._scaler.step(self._optimizer)
            self._scaler.update()
        return _now(self._device) - started


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
