"""Benchmark of diffusion pre-training: the cost of a step, and whether bf16 with channels_last learns like float32.

The stage is trained twice from the same weights: in float32 with weights and images in contiguous memory (the U-Net's
linear attention puts channels last by itself), and under bf16 autocast in channels_last. Tiles, noise and times are the
same at every step, and so are optimiser and clipping. Tiles are cut from drawn tissue without changes: neither loading
nor augmentation is part of a step here.

*Forward* is the stage's training step: noising, network and loss. *Backward* clears the gradients and computes them.
*Optimiser* is clipping, AdamW and its learning rate.

The two are trained in turn, a few steps each, and each goes first in every second round, so that load on the machine
affects both alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from tissuebench.common.hashing import derive_seed
from tissuebench.common.progress import ProgressDisplay
from tissuebench.datasets.catalog.synthetic import CLASS_MAP
from tissuebench.datasets.store.tissue import MIN_TISSUE_SHARE
from tissuebench.datasets.synthetic import SyntheticConfig, cohort, render_slide
from tissuebench.datasets.types import TileBatch, TrainingBatch
from tissuebench.errors import ConfigError
from tissuebench.methods.api.stage import Task
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.denoising.pretraining import TISSUE, Denoising, DenoisingSettings
from tissuebench.methods.networks.settings import Architecture, EncoderMode, NetworkSettings, Weights
from tissuebench.perf.ratios import Rates, Ratio, ratio, show
from tissuebench.plans.schema import validated
from tissuebench.runtime.machine import detect_machine
from tissuebench.training.callbacks import TrainingError

GOAL = 0.02
PARTS = ("forward", "backward", "optimiser")
_WINDOW, _BLOCK, _SEED = 20, 10, 0
_SLIDE_PX, _N_PATIENTS, _MPP = 768, 4, 1.0


class Way(StrEnum):
    """Precision and memory format of the training: ``float32`` in contiguous memory, ``bf16`` in channels_last."""

    FLOAT32 = "float32"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True)
class MeasuredSteps:
    """Measurements of each step: its loss, (S,), and the seconds of its ``PARTS``, (S, 3); both float64."""

    losses: NDArray[np.float64]
    seconds: NDArray[np.float64]


def run(
    console: Console,
    as_json: bool,
    width: int = 32,
    multipliers: str = "1,2,4",
    patch: int = 2,
    tile_px: int = 64,
    batch: int = 16,
    steps: int = 200,
) -> list[Ratio]:
    """Draw tissue, train in both ways, and print one table.

    Args:
        console: console for the table; progress goes to standard error.
        as_json: print JSON and nothing else.
        width: channels of the U-Net's finest level; its head joins the encoder's finest map.
        multipliers: channels of its levels, as multiples of the width.
        patch: edge in pixels of the patches that it processes as one pixel.
        tile_px: edge of a tile.
        batch: tiles per step.
        steps: steps of each way; the first round of 10, or the first half of fewer than 20, is not timed.

    Raises:
        ConfigError: such a network, so few steps or such large tiles are not possible.
        TrainingError: a loss became NaN or infinite.
    """
    if steps < 2:
        raise ConfigError(f"perf-denoising: {steps} steps are too few; give at least 2")
    unet = {"width": width, "multipliers": multipliers.split(","), "patch": patch}
    given = {"network": Architecture.PAPER, "fullres_skip": True, **unet}
    settings = validated(DenoisingSettings, given, "perf-denoising")
    network = NetworkSettings(weights=Weights.NONE)  # not used by the U-Net
    task = Task(CLASS_MAP, network, TrainingSettings(steps=steps, batch_size=batch), tile_px)
    with ProgressDisplay(Console(stderr=True, highlight=False)) as display:
        display.note(f"drawing tissue of {_N_PATIENTS} patients ...")
        tiles = tissue_tiles(tile_px)
        block = min(_BLOCK, steps // 2)
        found = measure(task, settings, tiles, block, display)
    lines = compare(found, block, batch)
    told = f"{batch} tiles of {tile_px} px; U-Net of width {width} x ({multipliers}), patch {patch}"
    show(f"A step of diffusion pre-training, relative ({told})", lines, console, as_json)
    return lines


def tissue_tiles(tile_px: int, size_px: int = _SLIDE_PX, n_patients: int = _N_PATIENTS) -> NDArray[np.uint8]:
    """Return the tiles of drawn slides that show tissue, (N, 3, tile_px, tile_px) uint8, at 1 um per pixel.

    Args:
        tile_px: edge of a tile; tiles lie side by side.
        size_px: edge of a slide.
        n_patients: one slide each, with both diagnoses equally frequent.

    Raises:
        ConfigError: no such tile has tissue.
    """
    config = SyntheticConfig(n_train=n_patients, n_val=0, n_test=0, size_px=size_px, mpp=_MPP, seed=_SEED)
    glass, starts, tiles = CLASS_MAP.names.index("glass"), range(0, size_px - tile_px + 1, tile_px), []
    for patient in cohort(config):
        slide = render_slide(config, patient)
        for y, x in ((y, x) for y in starts for x in starts):
            place = slice(y, y + tile_px), slice(x, x + tile_px)
            if (slide.labels[place] != glass).mean() >= MIN_TISSUE_SHARE:
                tiles.append(slide.image[place].transpose(2, 0, 1))
    if not tiles:
        raise ConfigError(f"perf-denoising: tile_px is {tile_px}; slides of {size_px} px have no such tile of tissue")
    return np.stack(tiles)


class Training:
    """The stage trained in one of the two ways, with its optimiser and the measurements of its steps so far.

    Args:
        way: precision and memory format.
        task: the task, with its step budget.
        settings: settings of the stage.
        device: device to train on.

    Raises:
        ConfigError: such a network is not possible.
    """

    def __init__(self, way: Way, task: Task, settings: DenoisingSettings, device: torch.device) -> None:
        torch.manual_seed(derive_seed(_SEED, "init"))
        try:
            self.stage = Denoising(task, settings).to(device).train()
        except ValueError as error:
            raise ConfigError(f"perf-denoising: {error}") from None
        if way is Way.FLOAT32:
            _in_plain_memory(self.stage.network)
        self.way, self._device = way, device
        configured = self.stage.configure_optimizers()
        self._optimizer, self._rate = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        self._losses, self._seconds = list[float](), list[list[float]]()

    def step(self, number: int, images: Tensor) -> None:
        """Run one step of the optimiser; its random numbers depend only on the step's number.

        Args:
            number: number of the step, from 0.
            images: (B, 3, H, W) float32 in 0..1, on the device.

        Raises:
            TrainingError: the loss is not finite.
        """
        torch.manual_seed(derive_seed(_SEED, "step", number))
        times = [self._now()]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.way is Way.BF16):
            loss = self.stage.training_step(TrainingBatch({TISSUE: TileBatch(step=number, images=images)}), number)
        times.append(self._now())
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        times.append(self._now())
        self.stage.configure_gradient_clipping(self._optimizer, self.stage.task.training.gradient_clip)
        self._optimizer.step()
        self._rate.step()
        times.append(self._now())
        self._losses.append(float(loss.detach()))
        self._seconds.append(np.diff(times).tolist())
        if not math.isfinite(self._losses[-1]):
            raise TrainingError(f"perf-denoising: in {self.way}, the loss is {self._losses[-1]} at step {number}")

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @property
    def measured(self) -> MeasuredSteps:
        """Measurements of the steps so far."""
        return MeasuredSteps(np.array(self._losses), np.array(self._seconds))


def _in_plain_memory(network: nn.Module) -> None:
    """Undo the stage's channels_last, for its weights and for the images that it passes on."""

    def plain(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].contiguous(), *args[1:])

    network.to(memory_format=torch.contiguous_format)
    network.register_forward_pre_hook(plain)


def measure(
    task: Task,
    settings: DenoisingSettings,
    tiles: NDArray[np.uint8],
    block: int,
    display: ProgressDisplay | None = None,
) -> dict[Way, MeasuredSteps]:
    """Train in both ways, in rounds of ``block`` steps each.

    Args:
        task: the task, with steps and batch size.
        settings: settings of the stage.
        tiles: (N, 3, H, W); each step draws some of them, with replacement.
        block: steps per round.
        display: shows the steps.

    Raises:
        ConfigError: such a network is not possible.
        TrainingError: a loss became NaN or infinite.
    """
    device, training = detect_machine(EncoderMode.FINETUNE).device, task.training
    both = [Training(way, task, settings, device) for way in Way]
    for start in range(0, training.steps, block):
        numbers = range(start, min(start + block, training.steps))
        rngs = [np.random.default_rng(derive_seed(_SEED, "order", number)) for number in numbers]
        drawn = [tiles[rng.integers(len(tiles), size=training.batch_size)] for rng in rngs]
        batches = [torch.from_numpy(images).to(device) / 255 for images in drawn]
        for trained in both if start // block % 2 == 0 else reversed(both):
            for number, images in zip(numbers, batches, strict=True):
                trained.step(number, images)
        if display is not None:
            display.phase("steps of both trainings", numbers.stop, training.steps)
    return {trained.way: trained.measured for trained in both}


def compare(found: Mapping[Way, MeasuredSteps], block: int, batch: int) -> list[Ratio]:
    """Compare seconds and parts of a step, without the first round, and the losses of all steps."""
    rates = {way: _rates(measured, block, batch)[1:] for way, measured in found.items()}
    name = f"seconds a step, {Way.BF16} in channels_last to {Way.FLOAT32}"
    lines = [ratio(name, rates[Way.FLOAT32], rates[Way.BF16]), _agreement(found)]
    for way, of_rounds in rates.items():
        low, middle, high = np.quantile(of_rounds, [0.25, 0.5, 0.75]).tolist()
        lines.append(Ratio(f"tiles a second, {way}", middle, note=f"{low:.3g} to {high:.3g}"))
    for way, measured in found.items():
        means = measured.seconds[block:].mean(axis=0)
        for part, mean, share in zip(PARTS, means.tolist(), (means / means.sum()).tolist(), strict=True):
            lines.append(Ratio(f"share of a step: {part}, {way}", share, note=f"{1000 * mean:.3g} ms"))
    return lines


def _rates(measured: MeasuredSteps, block: int, batch: int) -> Rates:
    """Return the tiles per second of each round."""
    return batch / _means(measured.seconds.sum(axis=1), np.arange(0, len(measured.seconds), block))


def _agreement(found: Mapping[Way, MeasuredSteps]) -> Ratio:
    wide, narrow = (window_means(found[way].losses) for way in (Way.FLOAT32, Way.BF16))
    differences = np.abs(narrow / wide - 1)
    note = f"median of {len(wide)}: {np.median(differences):.2g}; loss from {wide[0]:.3g} to {wide[-1]:.3g}"
    name = f"relative difference of the loss, windows of {_WINDOW} steps"
    return Ratio(name, differences.max().item(), GOAL, note, at_most=True)


def window_means(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean loss of every 20 steps, (W,) of (S,); fewer left-over steps belong to the last window."""
    starts = np.arange(max(1, len(losses) // _WINDOW)) * _WINDOW
    return _means(losses, starts)


def _means(values: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean of the values from each start up to the next."""
    means: NDArray[np.float64] = np.add.reduceat(values, starts) / np.diff(starts, append=len(values))
    return means
