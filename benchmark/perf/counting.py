"""Benchmark of how scoring counts: against plain ways of doing it, which are kept here and count alike.

*Counting*: confusion and calibration of one strip with numpy and with torch, on the device that predicts. *Threads*:
slides that are annotated throughout, scored with reading ahead and boundaries in a thread, and one thing after the
other. *Sparse*: a slide of which 1 % is annotated, scored with and without passing over what is not predicted, by a
method that takes hardly any time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from tissuebench.common.progress import ProgressDisplay
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.store.tile_store import TISSUE_DOWNSAMPLE, StoreInfo, TileStore
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap, LabelCosts
from tissuebench.evaluation import evaluate as evaluating
from tissuebench.evaluation import gpu_counts, stitching
from tissuebench.evaluation.evaluate import CountedSlide, evaluate
from tissuebench.evaluation.slide_counts import calibration_bins, confusion, uses_numpy
from tissuebench.evaluation.stitching import Strip
from tissuebench.methods.api.method import Method
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.api.stage import Task
from tissuebench.perf.ratios import Rates, Ratio, ratio, show
from tissuebench.plans.schema import EvaluationSettings, load_plan
from tissuebench.runtime.background import Background, ItemT, ReadT, ResultT
from tissuebench.runtime.machine import Machine, detect_machine

THREADS_GOAL, SPARSE_GOAL = 1.0, 3.0
_SEED, _CELL_PX, _N_DENSE = 0, 64, 4
_STRIP_PX = 1024
_CLASSES = ClassMap(
    ("glass", "stroma", "tumour", "other"), ((245, 245, 245), (230, 150, 190), (110, 60, 160), (200, 60, 70))
)

Counts = tuple[NDArray[np.int64], NDArray[np.float64]]


def run(
    console: Console, as_json: bool, size_px: int = 9000, n_rounds: int = 3, plan_name: str = "smoke"
) -> list[Ratio]:
    """Draw slides, count them in every way, and print one table.

    Args:
        console: console for the table; progress goes to standard error.
        as_json: print JSON and nothing else.
        size_px: edge of the sparse slide; the others have an eighth of it.
        n_rounds: rounds in which each way has its turn.
        plan_name: plan that provides the network, with random weights, and the windows.
    """
    plan = load_plan(plan_name, ("network.encoder_mode=finetune", "network.weights=none"))
    machine = detect_machine(plan.network.encoder_mode)
    kind = find_method("supervised")
    torch.manual_seed(_SEED)
    method = kind(Task(_CLASSES, plan.network, plan.training, 256), kind.Config()).to(machine.device)
    with (
        tempfile.TemporaryDirectory(prefix="tissuebench-perf-") as scratch,
        ProgressDisplay(Console(stderr=True, highlight=False)) as display,
    ):
        display.phase("drawing slides", 0, 1)
        store, split = draw(Path(scratch), size_px)
        quick = cast("Method[Any]", Nearest(machine.device))  # beside a network's time, that of skipped strips is small
        methods = {"val": method, "test": quick}
        score = partial(_score, methods, store, split, machine, plan.evaluation)
        lines = measure(score, machine.device, n_rounds, display)
    show(f"Counting in scoring (plan {plan_name}, {machine.device.type})", lines, console, as_json)
    return lines


def draw(folder: Path, size_px: int) -> tuple[TileStore, Split]:
    """Write a store of slides in part ``val``, annotated throughout, and one in ``test``, annotated in four squares."""
    writer = StoreWriter(folder / "store.zarr", StoreInfo("counting", 0.5, 256, LabelCosts()), _CLASSES)
    rng = np.random.default_rng(_SEED)
    dense = [f"dense_{number}" for number in range(_N_DENSE)]
    for name, side in [*((name, size_px // 8) for name in dense), ("sparse", size_px)]:
        cells = rng.integers(0, len(_CLASSES), (-(-side // _CELL_PX),) * 2, dtype=np.uint8)
        truth = cells.repeat(_CELL_PX, 0).repeat(_CELL_PX, 1)[:side, :side]
        image = np.array(_CLASSES.colors, dtype=np.uint8)[truth]
        if name == "sparse":
            shown, edge = np.zeros(truth.shape, dtype=np.bool_), side // 20
            for y, x in ((1, 1), (7, 12), (12, 5), (17, 17)):
                shown[y * edge : (y + 1) * edge, x * edge : (x + 1) * edge] = True
            truth = np.where(shown, truth, np.uint8(IGNORE_LABEL))
        writer.add(name, name, (), image, truth, np.ones((-(-side // TISSUE_DOWNSAMPLE),) * 2, dtype=np.uint8))
    return writer.seal(), Split("counting", {"val": tuple(dense), "test": ("sparse",)})


Score = Callable[[str], list[CountedSlide]]
"""Callable that scores the slides of a part of the split."""


class Nearest(nn.Module):
    """Stands in for a method: the most probable class is that of the nearest colour."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._colours = torch.tensor(_CLASSES.colors, dtype=torch.float32, device=device)

    def predict(self, images: Tensor) -> Tensor:
        """Return probabilities (B, K, H, W) of images (B, 3, H, W)."""
        colours = self._colours
        nearness = torch.einsum("bchw,kc->bkhw", images.float(), colours) - colours.square().sum(1)[:, None, None] / 2
        return (nearness / 1000).softmax(dim=1)


def _score(
    methods: Mapping[str, Method[Any]],
    store: TileStore,
    split: Split,
    machine: Machine,
    settings: EvaluationSettings,
    part: str,
) -> list[CountedSlide]:
    view = LabelView.for_evaluation(store, split, part)
    return evaluate(methods[part], store, view, settings, machine.device, machine.precision)


def measure(score: Score, device: torch.device, n_rounds: int, display: ProgressDisplay) -> list[Ratio]:
    """Return how fast each way of counting is relative to the plain one, and whether they count alike.

    Args:
        score: scores the slides that ``draw`` wrote.
        device: device that predicts.
        n_rounds: rounds.
        display: shows the progress.
    """
    ways: Mapping[str, tuple[str, Callable[[], AbstractContextManager[object]]]] = {
        "threads": ("val", nullcontext),
        "one after the other": ("val", one_after_the_other),
        "passing over": ("test", nullcontext),
        "all of it": ("test", all_of_it),
    }
    counted: dict[str, list[CountedSlide]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1, n_rounds + 1):
        for done, (name, (part, way)) in enumerate(ways.items(), start=1):
            display.phase(f"round {number}, ways", done, len(ways))
            with way():
                began = time.perf_counter()
                counted[name] = score(part)
                seconds[name].append(time.perf_counter() - began)
    rates = {name: 1 / np.array(taken) for name, taken in seconds.items()}
    numpys, torchs = _kernels(device, n_rounds)
    used, other = ("numpy", "torch") if uses_numpy(device) else ("torch", "numpy")
    of, to = (numpys, torchs) if uses_numpy(device) else (torchs, numpys)
    pairs = (("threads", "one after the other"), ("passing over", "all of it"))
    return [
        ratio(f"strips/s counted with {used} to with {other} ({device.type})", of, to, 1.0),
        ratio("scoring with threads to one after the other", rates[pairs[0][0]], rates[pairs[0][1]], THREADS_GOAL),
        ratio("scoring 1 % of a slide to passing over nothing", rates[pairs[1][0]], rates[pairs[1][1]], SPARSE_GOAL),
        Ratio("counts alike", float(all(_alike(counted[one], counted[two]) for one, two in pairs)), 1.0),
    ]


def one_after_the_other() -> AbstractContextManager[object]:
    """Return a context in which scoring uses no threads."""
    ways = ExitStack()
    ways.enter_context(patch.object(stitching, "read_ahead", _read_when_due))
    ways.enter_context(patch.object(evaluating, "Background", _AtOnce))
    return ways


def all_of_it() -> AbstractContextManager[object]:
    """Return a context in which strips without a predicted window are read, counted and written, too."""
    return patch.object(Strip, "predicted_parts", lambda strip: iter((strip,)))


def _read_when_due(items: Iterable[ItemT], read: Callable[[ItemT], ReadT]) -> Iterator[tuple[ItemT, ReadT]]:
    return ((item, read(item)) for item in items)


class _AtOnce(Background[ResultT]):
    """Does a job when it is started."""

    def start(self, job: Callable[[], ResultT]) -> None:
        """Do a job."""
        self._running = Future()
        self._running.set_result(job())


def _kernels(device: torch.device, n_rounds: int) -> tuple[Rates, Rates]:
    """Return strips per second that numpy and torch count, round by round; what a GPU predicted is copied for numpy."""
    rng, k = np.random.default_rng(_SEED), len(_CLASSES)
    truth = rng.integers(0, k, (_STRIP_PX, _STRIP_PX), dtype=np.uint8)
    labels = torch.from_numpy(np.where(rng.random(truth.shape) < 0.8, truth, 0).astype(np.uint8)).to(device)
    said = torch.from_numpy(rng.random(truth.shape, dtype=np.float32) * 0.75 + 0.25).to(device)

    def with_numpy() -> Counts:
        classes = labels.cpu().numpy()
        return confusion(truth, classes, k), calibration_bins(truth, classes, said.cpu().numpy())

    def with_torch() -> Counts:
        there = gpu_counts.on_device(truth, device)
        counts = gpu_counts.confusion(there, labels, k), gpu_counts.calibration_bins(there, labels, said)
        return counts[0].cpu().numpy(), counts[1].cpu().numpy()

    ways: tuple[Callable[[], Counts], ...] = (with_numpy, with_torch)
    for one, two in zip(*(way() for way in ways), strict=True):  # the first call of each is not timed
        np.testing.assert_array_equal(one, two)
    rates: tuple[list[float], ...] = ([], [])
    for _ in range(max(5, n_rounds)):
        for way, known in zip(ways, rates, strict=True):
            began = time.perf_counter()
            way()
            known.append(1 / (time.perf_counter() - began))
    return np.array(rates[0]), np.array(rates[1])


def _alike(some: list[CountedSlide], others: list[CountedSlide]) -> bool:
    names = ("counts", "boundaries", "calibration", "areas", "objects")
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for one, other in zip(some, others, strict=True)
        for name in names
    )
