"""The list of trials that ended."""

from __future__ import annotations

import numpy as np
import pytest

from tests.results.conftest import trial
from tissuebench.results.metrics import miou
from tissuebench.results.records.result_store import Failure, ResultStore
from tissuebench.results.tables.trial_list import is_of_method, trial_rows


def test_finished_and_failed_trials_sorted_and_chosen(tmp_path):
    rng = np.random.default_rng(0)
    store = ResultStore(tmp_path)
    results = [
        trial("mean_teacher[decay=0.95]", seed=1, rng=rng),
        trial("mean_teacher[decay=0.95]", seed=0, rng=rng),
        trial(budget="masks:6p", rng=rng),
        trial(dataset="another", rng=rng),
    ]
    for one in results:
        store.write(one)
    store.write_failure(Failure("f" * 16, "toy", "supervised", "masks:3p", 0, 0, "no luck", ""))
    rows = trial_rows(store)
    assert [(row.dataset, row.method, row.budget, row.seed, row.state) for row in rows] == [
        ("another", "supervised", "masks:3p", 0, "done"),
        ("toy", "mean_teacher[decay=0.95]", "masks:3p", 0, "done"),
        ("toy", "mean_teacher[decay=0.95]", "masks:3p", 1, "done"),
        ("toy", "supervised", "masks:3p", 0, "failed"),
        ("toy", "supervised", "masks:6p", 0, "done"),
    ]
    assert rows[1].trial == results[1].trial_id
    assert rows[1].miou == pytest.approx(float(miou(results[1].counts.sum(0))), abs=1e-6)
    assert (rows[1].part, rows[3].part, rows[3].miou) == ("test", None, None)
    assert [row.seed for row in trial_rows(store, method="mean_teacher")] == [0, 1]
    assert [row.state for row in trial_rows(store, dataset="toy", budget="masks:3p", method="supervised")] == ["failed"]
    assert trial_rows(store, dataset="nowhere") == []


def test_a_variant_is_not_that_of_a_longer_name():
    assert not is_of_method("supervised_twice[x=1]", "supervised")
    assert not is_of_method("supervised", "supervised[x=1]")
