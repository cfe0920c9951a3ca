"""Benchmark of scoring: one trained trial, scored from images and from cached features of windows in turn."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from tissuebench.bench import open_data
from tissuebench.common.progress import ProgressDisplay
from tissuebench.datasets.labels.view import LabelView
from tissuebench.evaluation.evaluate import CountedSlide, evaluate
from tissuebench.evaluation.stitching import Stitching
from tissuebench.evaluation.window_features import WindowFeatures, plan_windows, window_encoding
from tissuebench.features.records import Records, hold_shard
from tissuebench.features.shards import FrozenEncoder
from tissuebench.perf.loader import tile_features
from tissuebench.perf.ratios import Ratio, ratio, show
from tissuebench.plans.expand import PlannedData, expand
from tissuebench.plans.schema import load_plan
from tissuebench.plans.trial import Trial
from tissuebench.runtime.machine import Machine, detect_machine
from tissuebench.training.build import build_datamodule, build_method
from tissuebench.training.fit import fit

GOAL = 5.0
_METHOD = "complementary"


def run(
    console: Console, as_json: bool, home: Path | None = None, plan_name: str = "smoke", n_rounds: int = 3
) -> list[Ratio]:
    """Train one trial of a plan on the embedded data set, score it both ways, and print one table.

    Args:
        console: console for the table; progress goes to standard error.
        as_json: print JSON and nothing else.
        home: folder with the data set, which is created there if missing; None creates it for this run only.
        plan_name: plan that provides network, training and evaluation; its encoder must be frozen.
        n_rounds: scorings of each kind.

    Raises:
        TissueBenchError: as for ``tissuebench run``.
    """
    with tempfile.TemporaryDirectory(prefix="tissuebench-perf-") as scratch:
        folder = Path(scratch)
        with ProgressDisplay(Console(stderr=True, highlight=False)) as display:
            data = open_data("synthetic", None, home or folder, display)
            plan = load_plan(plan_name, ("seeds=[0]", "network.encoder_mode=frozen"))
            trial = next(trial for trial in expand(plan, (_METHOD,), data, folder) if trial.method == _METHOD)
            lines = measure(trial, data, detect_machine(trial.network.encoder_mode), folder, display, n_rounds)
    show(f"Scoring from features of windows and from images (plan {plan_name}, {_METHOD})", lines, console, as_json)
    return lines


def measure(
    trial: Trial, data: PlannedData, machine: Machine, folder: Path, display: ProgressDisplay, n_rounds: int
) -> list[Ratio]:
    """Train a trial, and return how fast it is scored from features, the share of the encoder, and equal counts.

    Args:
        trial: the trial.
        data: store and split.
        machine: device and precision.
        folder: existing folder for the checkpoint.
        display: shows the progress.
        n_rounds: scorings of each kind.
    """
    method = build_method(trial, data)
    batches = build_datamodule(trial, method, data, tile_features(trial, data, machine, display), machine)
    steps = trial.training.steps
    fit(method, batches, folder, trial.seed, machine, lambda step: display.phase("training", step, steps))
    method.to(machine.device)
    started = time.perf_counter()
    shards = _windows(trial, data, machine, display)
    encoder_seconds = time.perf_counter() - started
    how = Stitching.of(trial.evaluation, data.store.info.tile_px, machine.device, machine.precision)
    sources = {"images": None, "features": WindowFeatures(shards, how)}
    view = LabelView.for_evaluation(data.store, data.split, trial.evaluation.part)
    pixels = sum(slide.height * slide.width for slide in view.slides)
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    counted: dict[str, list[CountedSlide]] = {}
    for number in range(1, n_rounds + 1):
        for name, features in sources.items():
            told = partial(display.phase, f"scoring from {name}, round {number}, slides")
            began = time.perf_counter()
            of = (method, data.store, view, trial.evaluation, machine.device, machine.precision)
            counted[name] = evaluate(*of, progress=told, features=features)
            seconds[name].append(time.perf_counter() - began)
    rates = {name: pixels / np.array(taken) for name, taken in seconds.items()}
    whole = float(np.median(seconds["images"]))
    fast = float(np.median(seconds["features"]))
    return [
        ratio("pixels/s scored from features to from images", rates["features"], rates["images"], GOAL),
        Ratio("share of the encoder in scoring from images", encoder_seconds / whole, None, f"of {whole:.3g} s"),
        Ratio("seconds of scoring from features", fast, None, f"from images {whole:.3g} s"),
        Ratio("share of pixels counted alike", _alike(counted["features"], counted["images"]), 1.0, "confusions"),
    ]


def _windows(trial: Trial, data: PlannedData, machine: Machine, display: ProgressDisplay) -> list[Records]:
    encoder, of = FrozenEncoder(trial.network, len(data.store.class_map)), (trial.evaluation, data.store, data.split)
    held = []
    for shard in plan_windows(encoder, *of):
        told = partial(display.phase, f"features of windows, shard {shard.number} of {shard.count}, windows")
        encoding = window_encoding(shard.identity, trial.network, *of, machine.device, machine.precision)
        held.append(hold_shard(encoding, told))
    return held


def _alike(some: list[CountedSlide], others: list[CountedSlide]) -> float:
    """Return the share of annotated pixels that both count in the same cell of the confusion matrix of their slide."""
    one, other = (np.stack([row.counts for row in rows]) for rows in (some, others))
    return 1 - float(np.abs(one - other).sum()) / 2 / max(int(one.sum()), 1)
