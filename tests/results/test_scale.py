"""Many trials: the table is complete, holds few draws at once, and its path imports nothing heavy. No stopwatch."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from tissuebench.perf.leaderboard import GOAL, N_METHODS, N_SLIDES, PER_BUDGET, compare, make_results, measure
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.render.terminal import render
from tissuebench.results.tables import leaderboard
from tissuebench.results.tables.leaderboard import build


@pytest.fixture(scope="module")
def results():
    return make_results(2)


def test_a_row_a_cell_and_metric(results):
    board = build(results)
    assert len(results) == 2 * PER_BUDGET and len({one.trial_id for one in results}) == len(results)
    cells = {(row.method, row.budget) for row in board.rows}
    assert len(cells) == 2 * N_METHODS == len(board.compute)
    n_metrics = len({row.metric for row in board.rows})
    assert len(board.rows) == len(cells) * n_metrics
    assert all(row.mean is not None and row.low <= row.mean <= row.high for row in board.rows)
    assert all((row.n_replicates, row.n_seeds, row.n_patients) == (5, 2, N_SLIDES) for row in board.rows)
    assert len(board.efficiency) == N_METHODS
    assert all(any(row.tie for row in board.rows if row.metric == metric) for metric in ("miou", "ece"))
    out = io.StringIO()
    render(board, Console(file=out, width=120))
    assert sum(line.startswith("method 9") for line in out.getvalue().splitlines()) >= 2 * 2 + 1 + 1


def test_each_cell_is_scored_and_each_pair_compared_once(results, monkeypatch):
    scored, compared = [], []
    pair, score = leaderboard.pair, leaderboard.score
    monkeypatch.setattr(leaderboard, "pair", lambda a, b: compared.append((a, b)) or pair(a, b))
    monkeypatch.setattr(leaderboard, "score", lambda cell: scored.append(cell) or score(cell))
    build(results)
    assert len(scored) == 2 * N_METHODS
    assert len(compared) == 2 * N_METHODS * (N_METHODS - 1) // 2


def test_the_benchmark_compares_the_same_trials(results, tmp_path):
    store = ResultStore(tmp_path)
    few = results[: PER_BUDGET + 3]
    for one in few:
        store.write(one)
    rates = measure(store, few, rounds=1)
    assert {name: len(values) for name, values in rates.items()} == {"small table": 1, "table": 1, "reading": 1}
    lines = compare(rates, len(few))
    (judged,) = (line for line in lines if line.goal is not None)
    assert judged.goal == GOAL and judged.at_most
    assert judged.value == pytest.approx(rates["small table"][0] / rates["table"][0])
    assert lines[1].value == pytest.approx(rates["table"][0] / rates["reading"][0])
    assert lines[2].value == pytest.approx(len(few) / rates["table"][0] + len(few) / rates["reading"][0])


@pytest.mark.parametrize("command", [("table",), ("compare",), ("compare", "supervised", "good"), ("export",)])
def test_the_path_to_the_table_imports_nothing_heavy(command, make_trial, tmp_path):
    store = ResultStore(tmp_path / "runs" / "results")
    for seed in range(2):
        for method, budget in (("supervised", "masks:3p"), ("good", "masks:3p"), ("full", "masks:all")):
            store.write(make_trial(method, budget, seed=seed, rng=np.random.default_rng(seed)))
    code = (
        "import sys, json; sys.argv = ['tissuebench', *sys.argv[1:]]\n"
        "from tissuebench.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'lightning', 'zarr', 'wandb', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "print(json.dumps(sorted(heavy)), file=sys.stderr)"
    )
    arguments = ["results", *command, "--home", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert json.loads(done.stderr.splitlines()[-1]) == (["pandas"] if command == ("export",) else [])
