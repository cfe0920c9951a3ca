"""``tissuebench.results.frame()`` and its neighbours: what is stored in a home folder."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tissuebench.results
from tissuebench.errors import ConfigError, DataError
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.leaderboard import LeaderboardRow, build

TRIAL = {"trial_id": "str", "dataset": "str", "method": "str", "budget": "str", "minutes": "float64"}
TRIAL |= {"replicate": "int64", "seed": "int64"}


@pytest.fixture(scope="module")
def stored(make_trial):
    """Three trials of the main group, and one of other settings."""
    made = [make_trial("supervised", seed=seed, rng=np.random.default_rng(seed)) for seed in range(2)]
    made.append(make_trial("full", "masks:all", rng=np.random.default_rng(9), skill=2.0))
    return made, make_trial("supervised", seed=7, split="split-2", rng=np.random.default_rng(7))


@pytest.fixture
def home(tmp_path, stored):
    store = ResultStore(tmp_path / "runs" / "results")
    for one in (*stored[0], stored[1]):
        identity = {"split": one.identity["split"], "seed": one.seed, "method": one.method}
        store.write(replace(one, identity=identity))
    return tmp_path


def types_of(frame):
    return {name: str(pd.Series([], dtype=kind).dtype) for name, kind in frame.items()}


def dtypes(frame):
    return {name: str(kind) for name, kind in frame.dtypes.items()}


@pytest.mark.filterwarnings("ignore:1 trial under other settings")
def test_columns_are_as_documented(home):
    trials = tissuebench.results.frame(home)
    metrics = {name: "float64" for name in trials if name not in TRIAL}
    own = {"part": "str", "settings": "str"}
    assert dtypes(trials) == types_of({**TRIAL, **metrics, **own})
    assert list(trials)[: len(TRIAL) + 3] == [*TRIAL, "part", "settings", "miou"]
    patients, slides = tissuebench.results.patients(home), tissuebench.results.slides(home)
    assert dtypes(patients) == types_of({**TRIAL, "patient": "str", "metric": "str", "score": "float64"})
    named = dict.fromkeys(("patient", "slide", "truth", "predicted"), "str")
    assert dtypes(slides) == types_of({**TRIAL, **named, "pixels": "int64"})
    board = tissuebench.results.board(home)
    assert list(board) == [*LeaderboardRow.__dataclass_fields__, "part", "settings"]
    kinds = dtypes(board)
    assert kinds["mean"] == kinds["diff"] == "float64" and kinds["n_seeds"] == "int64" and kinds["tie"] == "bool"
    every = (
        f"{tissuebench.results.frame.__doc__}{tissuebench.results.board.__doc__}{tissuebench.results.slides.__doc__}"
    )
    assert not [name for name in [*TRIAL, *own, *named, *board] if f"`{name}`" not in every]


def test_what_the_table_leaves_out_is_left_out_with_a_warning(home, stored):
    with pytest.warns(UserWarning, match="1 trial under other settings"):
        trials = tissuebench.results.frame(home)
    assert set(trials.trial_id) == {one.trial_id for one in stored[0]}
    both = tissuebench.results.frame(home, everything=True)
    assert len(both) == 4 and both.settings.nunique() == 2
    assert both[both.settings != trials.settings[0]].trial_id.tolist() == [stored[1].trial_id]


@pytest.mark.filterwarnings("ignore:1 trial under other settings")
def test_the_board_is_that_of_the_table(home, stored):
    rows = tissuebench.results.board(home)
    expected = build(stored[0]).rows
    assert rows.metric.tolist() == [row.metric for row in expected]
    np.testing.assert_array_equal(rows["mean"], np.array([row.mean for row in expected], dtype=np.float64))
    assert len(tissuebench.results.board(home, everything=True)) == len(rows) + len(build([stored[1]]).rows)


def test_the_home_is_that_of_the_command_line(home, monkeypatch):
    monkeypatch.setenv("TISSUEBENCH_HOME", str(home))
    assert len(tissuebench.results.frame(everything=True)) == 4
    monkeypatch.delenv("TISSUEBENCH_HOME")
    monkeypatch.chdir(home)
    assert len(tissuebench.results.frame(everything=True)) == 4


def test_nothing_to_show_is_told_in_a_line(home, tmp_path):
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        tissuebench.results.frame(tmp_path / "nowhere")
    (tmp_path / "new").mkdir()
    with pytest.raises(DataError, match="no results yet"):
        tissuebench.results.patients(tmp_path / "new")
    with pytest.raises(DataError, match="no results of dataset 'other'"):
        tissuebench.results.board(home, dataset="other")
    assert len(tissuebench.results.curves(tmp_path / "new")) == 0


def trial_with_curves(home, trial_id, needs):
    folder = home / "runs" / "trials" / trial_id
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("step,train/loss,val/miou\n10,2.5,\n20,nan,0.25\n30,1.5")  # it still writes
    (folder / "job.json").write_text(json.dumps({"document": {"needs": needs}}))
    for key in needs.values():
        stage = home / "runs" / "stages" / key
        stage.mkdir(parents=True, exist_ok=True)
        (stage / "metrics.csv").write_text("step,loss/contrast\n5,7.0\n")


def test_curves_of_stages_and_trials_are_one_long_frame(tmp_path):
    trial_with_curves(tmp_path, "a" * 16, {"pretrain": "c" * 16})
    trial_with_curves(tmp_path, "b" * 16, {"pretrain": "c" * 16})
    (tmp_path / "runs" / "trials" / ("d" * 16)).mkdir()  # waits
    curves = tissuebench.results.curves(tmp_path)
    documented = {"trial_id": "str", "stage": "str", "step": "int64", "metric": "str", "value": "float64"}
    assert dtypes(curves) == types_of(documented) == types_of(tissuebench.results.curves(tmp_path / "runs").dtypes)
    one = curves[curves.trial_id == "a" * 16].drop(columns="trial_id").fillna(-1.0).values.tolist()
    assert one == [
        ["pretrain", 5, "loss/contrast", 7.0],
        ["", 10, "train/loss", 2.5],
        ["", 20, "train/loss", -1.0],
        ["", 20, "val/miou", 0.25],
    ]
    assert curves.trial_id.nunique() == 2 and len(curves) == 8


def test_a_damaged_job_is_told_in_a_line(tmp_path):
    trial_with_curves(tmp_path, "a" * 16, {})
    path = tmp_path / "runs" / "trials" / ("a" * 16) / "job.json"
    path.write_text("{")
    with pytest.raises(DataError, match=r"job\.json: not a usable job"):
        tissuebench.results.curves(tmp_path)


def test_pandas_is_imported_by_its_first_use_only():
    code = (
        "import sys, tissuebench.results as r\n"
        "assert {'frame', 'patients', 'slides', 'board', 'curves'} <= set(dir(r))\n"
        "assert not {'pandas', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        "r.frame\n"
        "assert 'pandas' in sys.modules and 'torch' not in sys.modules\n"
        "try: r.fram\n"
        "except AttributeError: print('as any module')"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.stdout == "as any module\n", done.stderr
