"""What training took, beside what it gave."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from tissuebench.results.render.terminal import render
from tissuebench.results.tables.compute_cost import compute_rows
from tissuebench.results.tables.leaderboard import CellKey, build

LAST = {"steps": 100, "samples": 1600, "waiting": 0.25, "peak_memory": 3 * 2**20}
STAGES = {"steps/tags": 30, "samples/tags": 480, "steps/self": 7, "samples/self": 56, "peak_memory/tags": 2**40}


@pytest.fixture
def took(make_trial):
    def one(method, budget="masks:3p", seed=0, *, fit=10.0, compute=LAST, stages=(), minutes=24.0):
        made = make_trial(method, budget, seed=seed, rng=np.random.default_rng(seed), minutes=minutes)
        seconds = {"fit": fit, "evaluate": 2.0, **{f"stage/{name}": value for name, value in stages}}
        return replace(made, compute=compute, seconds=seconds)

    return one


def lines_of(results, width=120, **build_with):
    out = io.StringIO()
    render(build(results, **build_with), Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    start = next((i for i, line in enumerate(lines) if "compute, mean over trials" in line), len(lines))
    return [line.split() for line in lines[start + 3 :]], lines[start:]


def test_means_over_runs_and_sums_over_earlier_stages(took):
    stages = (("tags", 40.0), ("self", 5.0))
    results = [
        took("mine", seed=seed, fit=fit, compute=LAST | STAGES, stages=stages) for seed, fit in ((0, 10), (1, 20))
    ]
    (row,) = compute_rows(results)
    assert (row.steps, row.samples, row.seconds, row.evaluate_seconds) == (100, 1600, 15, 2)
    assert (row.pre_steps, row.pre_samples, row.pre_seconds) == (37, 536, 45)
    assert (row.peak_memory, row.waiting, row.minutes, row.n_trials) == (3 * 2**20, 0.25, 24, 2)


def test_steps_are_summed_over_all_stages_and_those_on_masks_apart(took):
    stages = (("tags", 40.0), ("self", 5.0))
    annotated = {"annotated_steps": 100, "annotated_steps/tags": 0, "annotated_steps/self": 7}
    (row,) = compute_rows([took("mine", compute=LAST | STAGES | annotated, stages=stages)])
    assert (row.annotated_steps, row.all_steps) == (107, 137)
    (row,) = compute_rows([took("mine", compute={"samples": 3})])
    assert row.annotated_steps is row.all_steps is None


def test_without_stages_nothing_came_before(took):
    (row,) = compute_rows([took("plain")])
    assert row.pre_steps == row.pre_samples == row.pre_seconds == 0


def test_what_no_trial_measured_is_unknown_and_what_some_did_is_their_mean(took):
    (row,) = compute_rows([took("plain", compute={"steps": 5}), took("plain", seed=1, compute={"samples": 8})])
    assert (row.steps, row.samples, row.peak_memory, row.waiting) == (5, 8, None, None)


def test_cells_stay_apart_and_the_order_of_trials_does_not_matter(took):
    results = [took(m, b, s) for m in ("b", "a") for b in ("masks:9p", "masks:3p") for s in range(3)]
    rows = compute_rows(results)
    assert [(row.method, row.budget, row.n_trials) for row in rows] == [
        (m, b, 3) for m in ("a", "b") for b in ("masks:3p", "masks:9p")
    ]
    assert compute_rows(results[::-1]) == rows


def test_the_table_has_one_line_a_method_where_budgets_are_alike(took):
    results = [took("supervised", f"masks:{b}p", fit=10.0 * b, minutes=8.0 * b) for b in (1, 3)]
    results += [
        took(
            "mine",
            f"masks:{b}p",
            compute=LAST | STAGES | {"samples": 1600 + b},
            stages=(("tags", 400.0),),
            minutes=8.0 * b,
        )
        for b in (1, 3)
    ]
    lines, raw = lines_of(results)
    dash = "\N{EN DASH}"
    assert [line for line in lines if line and line[0] in ("supervised", "mine")] == [
        ["supervised", "all", "alike", "100", "1,600", "20", "3", dash, dash, dash],
        ["mine", "masks:1p", "100", "1,601", "10", "3", "30", "480", "400"],
        ["mine", "masks:3p", "100", "1,603", "10", "3", "30", "480", "400"],
    ]
    assert max(map(len, raw)) <= 120


def test_a_gap_has_no_compute(took):
    planned = [CellKey("toy", "mine", "masks:3p", 2)]
    board = build([took("mine"), took("supervised")], expected=planned)
    assert [row.method for row in board.compute] == ["supervised"]
