"""Benchmark of the table's cost by number of trials: reading them, building the table, and rendering it.

Made-up trials of ten methods, each at every budget with five draws of two seeds, on 50 slides of as many patients with
six classes. More trials are more budgets; the cost per trial should not depend on their number.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from tissuebench.common.hashing import Json, content_hash
from tissuebench.common.progress import ProgressDisplay
from tissuebench.perf.ratios import Rates, Ratio, ratio, show
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import CALIBRATION_BINS, TrialResult
from tissuebench.results.render.terminal import render
from tissuebench.results.tables.leaderboard import LOWER, build

GOAL = 1.5
N_METHODS, N_DRAWS, N_SEEDS = 10, 5, 2
PER_BUDGET = N_METHODS * N_DRAWS * N_SEEDS
N_SLIDES, N_CLASSES = 50, 6
_SEED = 0


def run(console: Console, as_json: bool, n_trials: int = 1000, rounds: int = 3) -> list[Ratio]:
    """Measure, and print one table.

    Args:
        console: console for the table; progress goes to standard error.
        as_json: print JSON and nothing else.
        n_trials: the larger number of trials, rounded up to whole budgets; the smaller is one budget, 100 trials.
        rounds: rounds in which each part has its turn; one more before them is not timed.
    """
    n_budgets = max(2, -(-n_trials // PER_BUDGET))
    with (
        tempfile.TemporaryDirectory(prefix="tissuebench-perf-") as folder,
        ProgressDisplay(Console(stderr=True, highlight=False)) as display,
    ):
        store = ResultStore(Path(folder))
        results = make_results(n_budgets)
        for i, result in enumerate(results):
            store.write(result)
            display.phase("writing trials", i + 1, len(results))
        rates = measure(store, results, rounds, display)
    lines = compare(rates, len(results))
    show(f"The table of {len(results)} trials on {N_SLIDES} slides, relative", lines, console, as_json)
    return lines


def compare(rates: Mapping[str, Rates], n_trials: int) -> list[Ratio]:
    """Return ratios of the results of ``measure``; ``n_trials`` is the larger number."""
    both = 1 / (1 / rates["reading"] + 1 / rates["table"])
    seconds = n_trials / float(np.median(both))
    return [
        ratio(
            f"a trial's share of the table: of {n_trials:,} to of {PER_BUDGET}",
            rates["small table"],
            rates["table"],
            GOAL,
            at_most=True,
        ),
        ratio("reading results to building the table", rates["table"], rates["reading"]),
        Ratio("seconds: reading, building and setting it", seconds, note="of this machine as it is now: no ratio"),
    ]


def measure(
    store: ResultStore, results: Sequence[TrialResult], rounds: int, display: ProgressDisplay | None = None
) -> Mapping[str, Rates]:
    """Return trials per second of ``small table``, ``table`` and ``reading``, (R,) each.

    Args:
        store: store with the results.
        results: from ``make_results``; the first ``PER_BUDGET`` are the small table.
        rounds: R.
        display: shows the rounds.
    """
    few = results[:PER_BUDGET]
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "small table": (len(few), lambda: _table(few)),
        "table": (len(results), lambda: _table(results)),
        "reading": (len(results), store.load),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, (n, way) in ways.items():
            began = time.perf_counter()
            way()
            if turn:
                rates[name].append(n / (time.perf_counter() - began))
        if display is not None:
            display.phase("rounds", turn, rounds)
    return {name: np.array(values) for name, values in rates.items()}


def _table(results: Sequence[TrialResult]) -> str:
    out = io.StringIO()
    render(build(results), Console(file=out, width=120))
    return out.getvalue()


def make_results(n_budgets: int) -> list[TrialResult]:
    """Make ``PER_BUDGET`` trials at each budget, all methods equally good: each metric has its own best method."""
    rng = np.random.default_rng(_SEED)
    methods = [LOWER, *(f"method {number}" for number in range(1, N_METHODS))]
    return [
        _trial(method, budget, draw, seed, rng)
        for budget in range(1, n_budgets + 1)
        for method in methods
        for draw in range(N_DRAWS)
        for seed in range(N_SEEDS)
    ]


def _trial(method: str, n_patients: int, draw: int, seed: int, rng: np.random.Generator) -> TrialResult:
    counts = rng.integers(0, 2000, (N_SLIDES, N_CLASSES, N_CLASSES)) + 5000 * np.eye(N_CLASSES, dtype=np.int64)
    right, pixels = np.diagonal(counts, axis1=1, axis2=2), counts.sum((1, 2))
    calibration = np.zeros((N_SLIDES, CALIBRATION_BINS, 3))
    calibration[:, -3] = np.stack([pixels, 0.83 * pixels, right.sum(1)], -1)
    budget = f"masks:{n_patients}p"
    identity: dict[str, Json] = {"method": method, "budget": budget, "draw": draw, "seed": seed}
    return TrialResult(
        trial_id=content_hash(identity)[:16],
        dataset="made up",
        method=method,
        budget=budget,
        minutes=8.0 * n_patients,
        replicate=draw,
        seed=seed,
        classes=tuple(f"class {number}" for number in range(N_CLASSES)),
        colors=tuple((40 * number, 0, 0) for number in range(N_CLASSES)),
        diagnoses={},
        patient_ids=tuple(f"patient {number}" for number in range(N_SLIDES)),
        slide_ids=tuple(f"slide {number}" for number in range(N_SLIDES)),
        slide_diagnoses=("",) * N_SLIDES,
        counts=counts,
        boundaries=np.stack([counts.sum(2), right, counts.sum(1), right], -1),
        calibration=calibration,
        slide_seconds=np.full(N_SLIDES, 0.1),
        identity=identity,
        environment={},
        seconds={"fit": 60.0, "evaluate": 5.0},
        compute={"steps": 100, "samples": 1600},
    )
