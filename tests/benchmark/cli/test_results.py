"""``tissuebench results``: what is compared with what, and what is said when it cannot be."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from click.testing import CliRunner

from tissuebench.cli.main import cli
from tissuebench.errors import TissueBenchError
from tissuebench.perf.leaderboard import make_results
from tissuebench.results.records.result_store import ResultStore

METHODS = ("supervised", "method 1", "method 2[a=1]")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two budgets of three methods, and of one of them in two data sets."""
    folder = tmp_path_factory.mktemp("home")
    store = ResultStore(folder / "runs" / "results")
    for one in make_results(2):
        if one.method in ("supervised", "method 1", "method 2") and one.replicate < 2:
            one = replace(one, method="method 2[a=1]") if one.method == "method 2" else one
            patients = tuple(f"p{int(name.split()[1]) % 8}" for name in one.patient_ids)
            for i, dataset in enumerate(("first", "second")):
                flipped = np.roll(one.slide_seconds, i)
                trial_id = f"{i}{one.trial_id[1:]}"
                store.write(
                    replace(one, trial_id=trial_id, dataset=dataset, patient_ids=patients, slide_seconds=flipped)
                )
    return folder


def said(home, *arguments):
    done = CliRunner().invoke(cli, ["results", *map(str, arguments), "--home", str(home)])
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(home, *arguments):
    done = CliRunner().invoke(cli, ["results", *map(str, arguments), "--home", str(home)])
    assert isinstance(done.exception, TissueBenchError), done.output
    assert "\n" not in str(done.exception)
    return str(done.exception)


def names(rows):
    return {(frozenset((row["method_a"], row["method_b"])), row["budget"]) for row in rows}


def test_two_methods_are_compared_at_every_budget_they_share(home):
    rows = json.loads(said(home, "compare", "supervised", "method 2", "--dataset", "first", "--json"))
    pair = frozenset(("supervised", "method 2[a=1]"))
    assert names(rows) == {(pair, "masks:1p"), (pair, "masks:2p")}
    assert {row["metric"] for row in rows} == {"miou"}  # no diagnoses here
    only = json.loads(
        said(home, "compare", "supervised", "method 2", "--dataset", "first", "--json", "--budget", "masks:2p")
    )
    assert only == [row for row in rows if row["budget"] == "masks:2p"]
    text = said(home, "compare", "supervised", "method 2", "--metric", "ece")
    assert text.count("method 2") >= 4 and "first" in text and "second" in text and "ece" in text


def test_more_methods_and_all_methods_are_compared_in_pairs(home):
    rows = json.loads(said(home, "compare", "--all-pairs", "--json", "--dataset", "second"))
    assert {pair for pair, _ in names(rows)} == {frozenset(pair) for pair in combinations(METHODS, 2)}
    named = json.loads(said(home, "compare", *METHODS, "--json", "--dataset", "second"))
    assert named == rows
    both = json.loads(said(home, "compare", *METHODS[:2], "--json"))
    assert {row["dataset"] for row in both} == {"first", "second"}
    assert all(row["p_holm"] == row["p"] for row in both)  # one pair a budget: nothing to correct for


def test_one_method_is_what_all_others_are_compared_with(home):
    rows = json.loads(said(home, "compare", "method 1", "--budget", "masks:2p", "--json", "--dataset", "first"))
    assert {(row["reference"], row["reference_budget"]) for row in rows} == {("method 1", "masks:2p")}
    assert len({(row["method"], row["budget"]) for row in rows}) == 5
    assert "difference to method 1 masks:2p" in said(home, "compare", "method 1", "--budget", "masks:2p")


def test_what_cannot_be_compared_is_one_line(home):
    assert "unknown reference 'full at masks:all'" in refused(home, "compare")
    assert "did you mean 'method 1'" in refused(home, "compare", "supervised", "methd 1")
    assert "unknown metric 'miuo': did you mean 'miou'" in refused(home, "compare", "--all-pairs", "--metric", "miuo")
    assert "there are some at masks:1p, masks:2p" in refused(home, "compare", *METHODS, "--budget", "masks:9p")
    assert "name another method" in refused(home, "compare", "supervised", "--all-pairs")
    assert "two different methods" in refused(home, "compare", "supervised", "supervised")


def test_nothing_to_compare_is_said(tmp_path):
    assert "no results yet" in said(tmp_path, "compare")
    assert json.loads(said(tmp_path, "compare", "--json")) == []


def test_tables_of_five_datasets_end_with_ranks_over_them(home, tmp_path):
    assert "rank" not in said(home, "table")  # two of them cannot tell methods apart
    store = ResultStore(tmp_path / "runs" / "results")
    for one in ResultStore(home / "runs" / "results").load():
        for i in range(5) if one.dataset == "first" else ():
            store.write(replace(one, trial_id=f"{i}{one.trial_id[1:]}", dataset=f"dataset {i}"))
    text = said(tmp_path, "table")
    assert text.count("mean rank over datasets (miou)") == 1
    assert text.index("mean rank over datasets") > text.rindex("not distinguishable from the best")
    assert max(map(len, text.splitlines())) <= 120
    assert "mean rank" not in said(tmp_path, "table", "--dataset", "dataset 1")


def test_rows_of_all_datasets_are_in_the_json(home):
    rows = json.loads(said(home, "table", "--json"))
    assert {row["dataset"] for row in rows} == {"first", "second"}
