"""All pairs of a budget: differences and p as those against one reference; Holm over the pairs of a budget."""

import io
import itertools

import numpy as np
import pytest
from rich.console import Console
from statsmodels.stats.multitest import multipletests

from tissuebench.errors import DataError
from tissuebench.results.render.pairs import render_pairs
from tissuebench.results.tables.against_reference import compare
from tissuebench.results.tables.pairs import pairs

METHODS = {"supervised": 0.3, "good[a=1,b=2]": 0.6, "other": 0.6, "same": 0.6}


@pytest.fixture(scope="module")
def results(make_trial):
    seeds = {"supervised": 0, "good[a=1,b=2]": 1, "other": 2, "same": 2}
    made = [
        make_trial(
            method, budget, 0, seed, rng=np.random.default_rng([seed, seeds[method]]), skill=skill, minutes=minutes
        )
        for seed in range(3)
        for method, skill in METHODS.items()
        for budget, minutes in (("masks:3p", 24.0), ("masks:25%", 130.0))
        if (method, budget) != ("same", "masks:25%")
    ]
    full = [
        make_trial("full", "masks:all", 0, s, rng=np.random.default_rng(9 + s), skill=2.0, minutes=999.0)
        for s in (0, 1)
    ]
    return made + full


def test_every_two_methods_of_a_budget_and_full_beside_them(results):
    rows = pairs(results)
    found = {
        budget: [(r.method_a, r.method_b) for r in rows if r.budget == budget] for budget in ("masks:3p", "masks:25%")
    }
    few = [*METHODS, "full"]
    assert found["masks:3p"] == list(itertools.combinations(sorted(few), 2))
    assert found["masks:25%"] == list(itertools.combinations(sorted(set(few) - {"same"}), 2))
    assert [row.budget for row in rows] == ["masks:3p"] * 10 + ["masks:25%"] * 6  # masks:all has nothing to pair
    assert {row.n_runs for row in rows if "full" in (row.method_a, row.method_b)} == {2}
    assert {row.n_runs for row in rows if "full" not in (row.method_a, row.method_b)} == {3}
    assert {row.metric for row in rows} == {"miou"}


def test_a_pair_is_the_comparison_with_a_reference(results):
    rows = {(r.budget, r.method_a, r.method_b, r.metric): r for r in pairs(results, metrics=("miou", "ece"))}
    for row in compare(results):
        if row.metric not in ("miou", "ece"):
            continue
        first = row.method < "full"
        names = (row.method, "full") if first else ("full", row.method)
        other = rows[row.budget, *names, row.metric]
        ends = (row.diff, row.low, row.high) if first else (-row.diff, -row.high, -row.low)
        assert (other.diff, other.low, other.high) == pytest.approx(ends, abs=1e-12)
        assert other.p == pytest.approx(row.p) and other.n_runs == row.n_runs


def test_holm_is_over_the_pairs_of_a_budget_and_metric(results):
    rows = pairs(results, metrics=("miou", "pixel_accuracy"))
    for budget, metric in itertools.product(("masks:3p", "masks:25%"), ("miou", "pixel_accuracy")):
        for with_full in (True, False):
            of_family = [
                row
                for row in rows
                if (row.budget, row.metric) == (budget, metric)
                and ("full" in (row.method_a, row.method_b)) is with_full
            ]
            expected = multipletests([row.p for row in of_family], method="holm")[1]
            assert [row.p_holm for row in of_family] == pytest.approx(expected.tolist())
            assert any(row.p_holm > row.p for row in of_family)


def test_p_of_a_pair_with_full_is_adjusted_as_in_the_comparison_with_full(results):
    both = {(r.budget, *sorted((r.method_a, r.method_b))): r.p_holm for r in pairs(results)}
    for row in compare(results):
        if row.metric == "miou":
            assert both[row.budget, *sorted((row.method, "full"))] == pytest.approx(row.p_holm)


def test_p_never_contradicts_the_interval(results):
    for row in pairs(results, metrics=("miou", "ece", "balanced_accuracy", "dice/HCC")):
        assert (row.p < 0.05) == (row.low > 0 or row.high < 0), row
        assert row.low < row.high


def test_methods_that_predict_the_same_do_not_differ(results):
    (row,) = (r for r in pairs(results) if (r.method_a, r.method_b) == ("other", "same"))
    assert (row.diff, row.p) == (0.0, 1.0) and row.low == -row.high < 0


def test_without_common_runs_there_is_no_number(make_trial):
    rng = np.random.default_rng(0)
    (row,) = pairs([make_trial("a", seed=0, rng=rng), make_trial("b", seed=1, rng=rng)])
    assert (row.n_runs, row.diff, row.low, row.high, row.p, row.p_holm) == (0, None, None, None, None, None)


def test_full_is_paired_once_at_its_own_budget(make_trial):
    rng = np.random.default_rng(0)
    results = [make_trial(m, "masks:all", 0, s, rng=rng) for m in ("full", "good") for s in (0, 1)]
    assert [(row.method_a, row.method_b) for row in pairs(results)] == [("full", "good")]


def test_an_unknown_metric_is_an_error(results):
    with pytest.raises(DataError, match="dataset toy: unknown metric 'dice': did you mean"):
        pairs(results, metrics=("dice",))


def test_the_table_fits_and_says_the_settings(results):
    out = io.StringIO()
    rows = pairs(results, metrics=("miou", "ece"))
    render_pairs(rows, Console(file=out, width=120))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 120
    assert "toy: differences a - b of ece" in lines and "good: with a=1, b=2" in lines
    (line,) = (line for line in lines[:15] if line.startswith("masks:3p") and "other" in line and "same" in line)
    found = line.split()
    assert found[:4] == ["masks:3p", "other", "same", ".000"] and found[-3:] == ["1", "1", "3"]
    render_pairs([], Console(file=out))
