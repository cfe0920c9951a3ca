"""Comparison of all cells with one of them: p, its adjustment, names of the reference."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from tissuebench.errors import DataError
from tissuebench.results.render.terminal import render_comparisons
from tissuebench.results.stats.multiple import holm
from tissuebench.results.tables.against_reference import compare


def test_everything_can_be_compared_with_full(results):
    rows = compare(results)
    assert {(row.method, row.budget) for row in rows} == {
        (m, b) for m in ("supervised", "good", "same") for b in ("masks:3p", "masks:25%")
    }
    (row,) = [r for r in rows if (r.method, r.budget, r.metric) == ("good", "masks:3p", "miou")]
    assert row.n_runs == 4 and row.high < 0 and row.p < 0.05  # of full, each seed stands beside both draws
    family = [r.p for r in rows if (r.budget, r.metric) == ("masks:3p", "miou")]
    assert len(family) == 3 and row.p_holm == holm(family)[family.index(row.p)]
    for r in rows:
        assert r.diff is None or (r.p < 0.05) == (r.low > 0 or r.high < 0)
    with pytest.raises(DataError, match="unknown reference 'fool at masks:all'"):
        compare(results, reference="fool")
    with pytest.raises(DataError, match=r"good has no results at masks:all, but at .*masks:3p: use --budget masks"):
        compare(results, reference="good")


def test_the_name_without_settings_is_enough_where_it_says_which(results):
    named = [replace(one, method="good[k=1]") if one.method == "good" else one for one in results]
    rows = compare(named, reference="good", reference_budget="masks:3p")
    assert {row.reference for row in rows} == {"good[k=1]"}
    assert rows == compare(named, reference="good[k=1]", reference_budget="masks:3p")
    both = [*named, *(replace(one, method="good[k=2]") for one in named if one.method == "good[k=1]")]
    with pytest.raises(DataError, match=r"known: .*good\[k=1\] at masks:3p"):
        compare(both, reference="good", reference_budget="masks:3p")


def test_comparisons_say_settings_below_as_well(make_trial):
    rng = np.random.default_rng(0)
    board = [make_trial(method, rng=rng) for method in ("supervised", "mine[decay=0.95]", "other[a=1]", "other[a=2]")]
    rows = compare(board, reference="mine", reference_budget="masks:3p")
    out = io.StringIO()
    render_comparisons(rows, ("miou",), Console(file=out, width=120))
    lines = [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]
    assert lines[0] == "toy: difference to mine masks:3p" and lines[-1] == "mine: with decay=0.95"
    assert [line.split()[0] for line in lines[2:-1]] == ["other[a=1]", "other[a=2]", "supervised"]
