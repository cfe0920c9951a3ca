import numpy as np
import pytest

from tissuebench.errors import DataError
from tissuebench.results.records.result_store import Failure, ResultStore


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "results")


@pytest.fixture
def trials(make_trial):
    rng = np.random.default_rng(0)
    return [make_trial(seed=seed, rng=rng) for seed in range(3)]


def failure_of(trial, reason="out of memory"):
    place = (trial.trial_id, trial.dataset, trial.method, trial.budget, trial.replicate, trial.seed)
    return Failure(*place, reason, "Traceback\n  é \udc80")


def test_results_come_back_ordered(store, trials):
    assert store.load() == [] and store.read_failures() == []
    for trial in trials:
        assert not store.has(trial.trial_id)
        store.write(trial)
        assert store.has(trial.trial_id)
    assert [r.trial_id for r in store.load()] == sorted(t.trial_id for t in trials)
    assert [r.seed for r in store.load([trials[1].trial_id, "0" * 16])] == [1]


def test_failures_are_kept_until_the_trial_finishes(store, trials):
    first, second, _ = trials
    store.write_failure(failure_of(first))
    store.write_failure(failure_of(first, "again"))
    store.write_failure(failure_of(second))
    assert {f.trial_id: f.reason for f in store.read_failures()} == {
        first.trial_id: "again",
        second.trial_id: "out of memory",
    }
    assert store.read_failures()[0].traceback == "Traceback\n  é \udc80"
    store.write(first)
    store.clear_failure(second.trial_id)
    store.clear_failure(second.trial_id)
    assert store.read_failures() == []


def test_ids_are_checked_before_they_are_paths(store):
    for call in (store.has, store.path, store.failure_path, store.clear_failure, lambda i: store.load([i])):
        with pytest.raises(DataError, match="hexadecimal"):
            call("../../../outside")


def test_damage_is_named(store, trials):
    store.write(trials[0])
    store.path("0" * 16).write_bytes(store.path(trials[0].trial_id).read_bytes())
    with pytest.raises(DataError, match=f"0000.parquet: holds trial {trials[0].trial_id}"):
        store.load()
    store.write_failure(failure_of(trials[1]))
    store.failure_path(trials[1].trial_id).write_text('{"trial_id":')
    with pytest.raises(DataError, match="not a usable failure record"):
        store.read_failures()
