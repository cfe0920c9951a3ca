"""Benchmark of the pixel contrast's cost relative to the supervised step, at the sizes of ACTION.

*Supervised step*: the published U-Net on 4 tiles of 256 px, cross-entropy and Dice, forward and backward. *Contrast*:
on the maps of 4 annotated and 4 other tiles, in which all pixels have a class and none is easy; *vectors* is the dense
map of keys, made without a graph; *drawing and loss* is all the rest, with the gradient down to the maps.

The three take turns, so that load on the machine affects them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from tissuebench.common.progress import ProgressDisplay
from tissuebench.datasets.types import ClassMap
from tissuebench.methods.anatomical_contrast import AnatomicalContrast, AnatomicalContrastSettings
from tissuebench.methods.api.stage import Task
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.contrastive.pixel_contrast import pixel_rows
from tissuebench.methods.networks.action_unet import RepresentationHead, stacked
from tissuebench.methods.networks.settings import Architecture, EncoderMode, NetworkSettings, Weights
from tissuebench.methods.teacher_student.networks import on_grid
from tissuebench.methods.teacher_student.supervised_loss import SupervisedLoss
from tissuebench.perf.ratios import Rates, Ratio, ratio, show
from tissuebench.runtime.machine import detect_machine

GOAL = 0.5
ANNOTATED, OTHERS, TILE_PX, N_CLASSES = 4, 4, 256, 4
_SEED, _CELLS = 0, 8


def run(console: Console, as_json: bool, rounds: int = 5, rep_stride: int = 4, tile_px: int = TILE_PX) -> list[Ratio]:
    """Measure, and print one table.

    Args:
        console: console for the table; progress goes to standard error.
        as_json: print JSON and nothing else.
        rounds: rounds in which each part has its turn; one more before them is not timed.
        rep_stride: edge in pixels of the area that each vector covers; published: 1.
        tile_px: edge of a tile.
    """
    method = make_method(tile_px, rep_stride)
    with ProgressDisplay(Console(stderr=True, highlight=False)) as display:
        rates = measure(method, rounds, display)
    both = 1 / (1 / rates["loss"] + 1 / rates["vectors"])
    lines = [
        ratio("contrast, drawing and loss, to the supervised step", rates["supervised"], rates["loss"]),
        ratio("contrast, vectors, to the supervised step", rates["supervised"], rates["vectors"]),
        ratio("contrast, both together, to the supervised step", rates["supervised"], both, GOAL, True),
        *sizes(method),
    ]
    settings = method.config
    told = f"{ANNOTATED} + {OTHERS} tiles of {tile_px} px, {N_CLASSES} classes, {settings.queries} queries, "
    told += f"{settings.negatives} negatives, vectors of {settings.representation}, one per {rep_stride} px"
    show(f"Contrast between pixels, relative ({told})", lines, console, as_json)
    return lines


def make_method(tile_px: int, rep_stride: int) -> AnatomicalContrast:
    """Build the method with the paper's network and sizes, always with the same weights."""
    names = tuple(f"class {number}" for number in range(N_CLASSES))
    class_map = ClassMap(names, tuple((60 * number, 0, 0) for number in range(N_CLASSES)))
    network = NetworkSettings(encoder="resnet18", weights=Weights.NONE)  # not used by the U-Net
    task = Task(class_map, network, TrainingSettings(batch_size=ANNOTATED), tile_px)
    given = {"network": Architecture.PAPER, "rep_stride": rep_stride, "strong": 1.0}
    torch.manual_seed(_SEED)
    config = AnatomicalContrastSettings.model_validate(given)
    return AnatomicalContrast(task, config).to(detect_machine(EncoderMode.FINETUNE).device).train()


def measure(method: AnatomicalContrast, rounds: int, display: ProgressDisplay | None = None) -> Mapping[str, Rates]:
    """Return turns per second of ``supervised``, ``vectors`` and ``loss``, (R,) each.

    Args:
        method: from ``make_method``.
        rounds: R.
        display: shows the rounds.
    """
    device, edge = method.device, method.task.tile_px
    generator = torch.Generator().manual_seed(_SEED)
    cells = torch.randint(N_CLASSES, (ANNOTATED + OTHERS, _CELLS, _CELLS), generator=generator)
    masks = cells.repeat_interleave(edge // _CELLS, 1).repeat_interleave(edge // _CELLS, 2).to(device)
    images = torch.rand(len(masks), 3, edge, edge, generator=generator).to(device)
    head = method.representation
    assert isinstance(head, RepresentationHead)  # noqa: S101 - it has a weight
    network = method.maps_network
    grid = (edge // method.config.rep_stride,) * 2
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        seen = network.maps(images)
        maps = stacked(seen.decoder, grid)
        probabilities = on_grid(seen.logits, grid, network.stride, 0).softmax(dim=1)
        keys = pixel_rows(head(maps))
    labels = on_grid(masks, grid, network.stride, 0)
    maps.requires_grad_()

    def supervised() -> Tensor:
        logits = network.maps(images[:ANNOTATED]).logits
        return SupervisedLoss.CROSS_ENTROPY_DICE.of(logits, masks[:ANNOTATED])

    def vectors() -> None:
        method.vectors(maps)

    def loss() -> Tensor:
        return method.contrast_of(keys, maps, labels, probabilities)

    ways: dict[str, Callable[[], Tensor | None]] = {"supervised": supervised, "vectors": vectors, "loss": loss}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            method.zero_grad()
            maps.grad = None
            began = _now(device)
            with torch.autocast(device.type, torch.bfloat16):  # as in training
                loss_of_way = way()
            if loss_of_way is not None:
                torch.autograd.backward(loss_of_way)
            seconds[name].append(_now(device) - began)
        if display is not None:
            display.phase("rounds", turn, rounds)
    return {name: 1 / np.array(found[1:]) for name, found in seconds.items()}


def sizes(method: AnatomicalContrast) -> list[Ratio]:
    """Return what a step keeps in memory for the contrast, in MiB of float32; gathered negatives are not kept."""
    cells = (ANNOTATED + OTHERS) * (method.task.tile_px // method.config.rep_stride) ** 2
    channels, width = method.maps_network.decoder_channels, method.config.representation
    parts = {"maps that vectors are made of": channels, "vectors": width}
    return [Ratio(f"MiB: {name}", cells * numbers * 4 / 2**20) for name, numbers in parts.items()]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
