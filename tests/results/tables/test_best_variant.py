"""Which variant is chosen, which are as good, and which are not considered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tissuebench.perf.leaderboard import make_results
from tissuebench.results.records.result_store import Failure
from tissuebench.results.stats.intervals import estimate
from tissuebench.results.stats.scored import pair, score
from tissuebench.results.tables.best_variant import variant_rows
from tissuebench.results.tables.leaderboard import build
from tissuebench.results.tables.panel import panels

NAMES = {"method 1": "mine", "method 2": "mine[a=1]", "method 3": "mine[a=2]", "supervised": "supervised"}


def better(one, share):
    """With this share of each slide's mistakes corrected."""
    moved = (one.counts * share).astype(np.int64) * (1 - np.eye(len(one.classes), dtype=np.int64))
    counts = one.counts - moved
    for k in range(len(one.classes)):
        counts[:, k, k] += moved[:, k].sum(-1)
    calibration = one.calibration.copy()
    calibration[:, -3, 2] = np.diagonal(counts, axis1=1, axis2=2).sum(1)
    right = np.diagonal(counts, axis1=1, axis2=2)
    boundaries = np.stack([counts.sum(2), right, counts.sum(1), right], -1)
    return replace(one, counts=counts, boundaries=boundaries, calibration=calibration, areas=counts.sum(1))


@pytest.fixture(scope="module")
def results():
    """Two budgets of three variants and of a method with a single one; ``a=2`` is far better at the second budget."""
    made = [replace(one, method=NAMES[one.method]) for one in make_results(2) if one.method in NAMES]
    return [better(one, 0.5) if (one.method, one.budget) == ("mine[a=2]", "masks:2p") else one for one in made]


def test_the_best_mean_is_chosen_at_each_budget_and_compared_on_common_runs(results):
    rows = variant_rows(results)
    assert {row.method for row in rows} == {"mine"}  # there is nothing to choose for the other
    assert [(row.budget, row.variant) for row in rows if row.chosen][1] == ("masks:2p", "mine[a=2]")
    (panel,) = panels(results)
    first = [row for row in rows if row.budget == "masks:1p"]
    chosen = first[0]
    assert chosen.chosen and chosen.mean == max(row.mean for row in first) and chosen.diff is None
    where = panel.metrics.index("miou")
    for row in first[1:]:
        both = pair(score(panel.cells[row.variant, "masks:1p"]), score(panel.cells[chosen.variant, "masks:1p"]))
        found = estimate(both)
        assert (row.diff, row.diff_low, row.diff_high) == pytest.approx(
            (found.mean[where], found.low[where], found.high[where])
        )
        assert row.n_runs == 10 and row.is_complete


def test_what_runs_and_patients_do_not_tell_apart_is_said(results):
    rows = variant_rows(results)
    assert all(row.tie for row in rows if row.budget == "masks:1p")  # equally good by construction
    assert [row.tie for row in rows if row.budget == "masks:2p"] == [True, False, False]
    assert all(row.p_holm < 0.05 for row in rows if row.budget == "masks:2p" and not row.chosen)


def test_a_variant_that_lacks_a_run_or_failed_is_not_considered(results):
    gone = next(one for one in results if (one.method, one.budget) == ("mine[a=2]", "masks:2p"))
    rows = variant_rows([one for one in results if one is not gone])
    (lacking,) = (row for row in rows if not row.is_complete)
    assert (lacking.variant, lacking.budget, lacking.n_runs, lacking.n_missing) == ("mine[a=2]", "masks:2p", 9, 1)
    assert not lacking.chosen and not lacking.tie and lacking.mean is not None
    assert sum(row.chosen for row in rows) == 2
    failure = Failure("f" * 16, "made up", "mine[a=3]", "masks:1p", 0, 0, "it blew up", "")
    rows = variant_rows(results, [failure])
    (failed,) = (row for row in rows if row.n_failed)
    assert (failed.variant, failed.budget, failed.n_runs, failed.mean) == ("mine[a=3]", "masks:1p", 0, None)
    none = [one for one in results if one.budget == "masks:1p" and (one.method, one.replicate) != ("mine", 0)]
    alone = [replace(failure, method=name) for name in ("mine[a=1]", "mine[a=2]")]
    assert not any(row.chosen for row in variant_rows(none, alone))


def test_of_equal_variants_one_is_chosen_and_the_other_is_a_tie(results):
    same = [replace(one, method="mine[a=2]") for one in results if one.method == "mine[a=1]"]
    rows = variant_rows([one for one in results if one.method == "mine[a=1]"] + same)
    assert [(row.variant, row.chosen, row.tie) for row in rows if row.budget == "masks:1p"] == [
        ("mine[a=1]", True, True),
        ("mine[a=2]", False, True),
    ]


def test_a_table_of_several_variants_on_the_test_part_warns(results):
    (note,) = (note for note in build(results).notes if "variants" in note)
    assert note.startswith("made up: 3 variants of mine stand here with test scores")
    validated = [replace(one, identity={**one.identity, "evaluation": {"part": "val"}}) for one in results]
    assert not [note for note in build(validated).notes if "variants" in note]
