"""``tissuebench.run``: what the command line runs, from a script or a notebook."""

import os
import subprocess
import sys

import numpy as np
import pytest

import tissuebench
from tissuebench.errors import ConfigError, DataError

SETTINGS = {"compute.executor": "inline", "training.steps": 2}


@pytest.fixture
def run(bench, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    given = {"datasets": "folder", "data_roots": {"folder": bench.data_root}, "home": bench.home}
    return lambda plan=bench.plan_path, **more: tissuebench.run(plan, **{**given, "settings": SETTINGS, **more})


def test_it_returns_the_table_of_the_plan_and_its_trials(run, bench):
    done = run(methods=["supervised"], budgets="masks:2p", seeds=[0, 1])
    assert not done.failed
    assert set(done.board.budget) == {"masks:2p", "masks:all"} and done.board["mean"].notna().any()
    trials = done.trials
    assert set(zip(trials.method, trials.seed, strict=True)) == {(m, s) for m in ("supervised", "full") for s in (0, 1)}
    means = trials.groupby(["method", "budget"])["miou"].mean()
    for row in done.board[done.board.metric == "miou"].itertuples():
        assert means[row.method, row.budget] == pytest.approx(row.mean)
    assert "supervised" in repr(done) and "mIoU [low, high]" in repr(done)
    assert done._repr_html_().startswith("<pre") and "supervised" in done._repr_html_()
    stored = tissuebench.results.frame(bench.home)
    assert set(stored.trial_id) == set(trials.trial_id)
    np.testing.assert_array_equal(
        tissuebench.results.board(bench.home)["mean"], done.board["mean"], err_msg="one table, two ways to it"
    )
    assert run(methods=["supervised"], budgets="masks:2p", seeds=[0, 1]).result.summary.done == ()  # never repeated


def test_a_failed_trial_is_named(run):
    done = run(methods="breaking_in_a_test", budgets=["masks:2p"], seeds=0)
    (failed,) = done.failed
    gaps = done.board[done.board.method == "breaking_in_a_test"]
    assert gaps["mean"].isna().all() and (gaps.n_trials_failed == 1).all()
    assert failed not in set(done.trials.trial_id)


def test_what_is_wrong_is_told_in_a_line_before_anything_runs(run, bench, tmp_path):
    for wrong, message in (
        ({"methods": "complimentary"}, "did you mean 'complementary'"),
        ({"settings": {"training.stpes": 3}}, r"unknown key 'training\.stpes'"),
        ({"plan": "smok"}, "unknown plan 'smok'"),
        ({"home": tmp_path / "no" / "where"}, "neither this folder nor"),
    ):
        with pytest.raises(ConfigError, match=message) as told:
            run(**wrong)
        assert "\n" not in str(told.value)
    with pytest.raises(DataError, match="no such file"):
        run(methods="supervised", data_roots={"folder": tmp_path / "gone"})
    assert not (bench.home / "runs").exists()


SCRIPT = """
import sys
from pathlib import Path

import tissuebench
from tissuebench.datasets.ingest.workers import run_each

print("the script begins")
assert dict(run_each(abs, [-1, -2, -3], 2)) == {-1: 1, -2: 2, -3: 3}
done = tissuebench.run(
    sys.argv[1], methods="supervised", datasets="folder", data_roots={"folder": sys.argv[2]}, budgets="masks:2p",
    seeds=0, settings={"training.steps": 2, "compute.slots": 1}, home=sys.argv[3],
)
print(len(done.trials), "trials")
"""


@pytest.mark.slow
def test_a_script_needs_no_main_guard(bench, quiet_environment, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    arguments = (str(bench.plan_path), str(bench.data_root), str(bench.home))
    done = subprocess.run(
        [sys.executable, "-P", script, *arguments], env=quiet_environment, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the script begins", "2 trials"]
    assert "trial 2/2" in done.stderr and "\x1b" not in done.stderr


def test_children_do_not_run_the_script_again(tmp_path):
    script = tmp_path / "script.py"
    lines = "from tissuebench.datasets.ingest.workers import run_each\nprint('once')\nprint(dict(run_each(abs, [-1, -2], 2)))"
    script.write_text(lines)
    done = subprocess.run([sys.executable, "-P", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("once") == 1 and "-1: 1" in done.stdout


def test_the_package_offers_it_all_and_imports_nothing_until_then():
    code = (
        "import sys, tissuebench\n"
        "offered = {'run', 'open_dataset', 'load_method', 'results'}\n"
        "assert offered <= set(dir(tissuebench)) and offered == set(tissuebench.__all__)\n"
        "heavy = {'torch', 'pandas', 'numpy', 'pyarrow', 'rich', 'PIL', 'click', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "tissuebench.results\n"
        "assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)\n"
        "try: tissuebench.rnu\n"
        "except AttributeError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert done.stdout == "module 'tissuebench' has no attribute 'rnu'\n", done.stderr
