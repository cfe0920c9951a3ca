"""The main group of a dataset, and what is said of the results that are not in it."""

import os
from dataclasses import replace

import numpy as np
import pytest

from tissuebench.common.hashing import content_hash
from tissuebench.common.protocol import PROTOCOL_VERSION
from tissuebench.results.records import trial_result
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import comparable_results, groups_of, select, table_names


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path)


@pytest.fixture
def add(store, make_trial):
    """Store a number of trials under some settings; each call is later than the ones before."""
    calls = iter(range(100))

    def of(n, part="test", steps=300, dataset="toy", protocol=PROTOCOL_VERSION):
        at = next(calls)
        for seed in range(n):
            one = make_trial(seed=seed, rng=np.random.default_rng(seed), dataset=dataset)
            identity = {
                "protocol": protocol, "dataset": dataset, "split": "split-1", "method": "supervised", "seed": seed,
                "budget": one.budget, "training": {"steps": steps}, "evaluation": {"part": part, "tta": "none"},
            }  # fmt: skip
            one = replace(one, identity=identity, trial_id=content_hash(identity)[:16])
            store.write(one)
            os.utime(store.path(one.trial_id), (1e9 + at, 1e9 + at))
        return identity

    return of


def sizes(groups):
    return [(group.part, len(group.results), group.results[0].identity["training"]["steps"]) for group in groups]


def test_a_validation_run_does_not_take_the_place_of_the_test_results(store, add):
    add(2)
    add(5, part="val")
    chosen = select(store)
    assert sizes(chosen.groups) == [("test", 2, 300)] and sizes(chosen.others) == [("val", 5, 300)]
    assert chosen.notes == [
        "5 trials under other settings (5 scored on the validation part): 'tissuebench results table --all'"
    ]
    assert [len(results) for results in comparable_results(store)] == [2]
    assert chosen.groups[0].remark == ""


def test_a_try_with_other_settings_does_not_either(store, add):
    add(6)
    add(2, steps=3)
    chosen = select(store)
    assert sizes(chosen.groups) == [("test", 6, 300)]
    assert chosen.notes == ["2 trials under other settings: 'tissuebench results table --all'"]


def test_the_study_that_was_run_again_is_the_main_one(store, add):
    add(3)
    add(3, steps=600)
    assert sizes(select(store).groups) == [("test", 3, 600)]


def test_all_groups_say_what_sets_them_apart(store, add):
    add(3)
    add(1, steps=600)
    add(2, part="val", steps=20)
    chosen = select(store, everything=True)
    assert sizes(chosen.groups) == [("test", 3, 300), ("test", 1, 600), ("val", 2, 20)]
    assert chosen.others == () and chosen.notes == []
    assert [group.remark for group in chosen.groups] == [
        "",
        "toy: 1 trial with training.steps=600, unlike the main table",
        "toy: 2 trials with evaluation.part=val, training.steps=20, unlike the main table",
    ]


def test_a_table_of_validation_results_says_so(store, add):
    add(2, part="val")
    (group,) = select(store).groups
    assert group.remark == "toy: scored on the validation part, not on the test part"


def test_every_dataset_has_a_main_group(store, add):
    add(2)
    add(1, dataset="another", steps=5)
    add(1, dataset="another", part="val")
    assert [group.dataset for group in select(store).groups] == ["another", "toy"]
    assert sizes(select(store, "another").others) == [("val", 1, 300)]
    assert select(store, "nowhere").groups == ()


def test_results_of_an_earlier_protocol_are_counted_and_not_shown(store, add):
    add(9, protocol=PROTOCOL_VERSION - 1)
    add(1, protocol=PROTOCOL_VERSION, part="val")
    found = select(store)
    assert sizes(found.groups) == [("val", 1, 300)] and found.n_outdated == 9
    assert found.notes == ["9 trials of an earlier protocol not shown: run the plans again"]
    add(1, protocol=PROTOCOL_VERSION)
    assert [line.split()[:2] for line in select(store).notes] == [["1", "trial"], ["9", "trials"]]


def test_results_of_an_earlier_schema_are_counted_and_not_an_error(store, add, monkeypatch):
    add(1)
    monkeypatch.setattr(trial_result, "SCHEMA_VERSION", trial_result.SCHEMA_VERSION - 1)
    add(2, steps=5)
    monkeypatch.undo()
    found = select(store)
    assert sizes(found.groups) == [("test", 1, 300)] and found.n_outdated == 2


def test_names_of_tables_carry_what_differs(store, add):
    main = add(3)
    other, val, more = add(1, steps=600), add(2, part="val"), add(1, part="val", steps=7)
    groups = groups_of(store)["toy"]
    names = table_names("toy", groups, main)
    keys = [group.key for group in groups]
    assert [names[key] for key in keys] == ["toy", f"toy-{keys[1][:8]}", "toy-val", f"toy-val-{keys[3][:8]}"]
    assert all(table_names("toy", groups, own) == names for own in (other, val, more))


def test_a_group_without_results_has_a_name(store, add):
    val = {"evaluation": {"part": "val"}, "dataset": "toy"}
    assert list(table_names("toy", [], val).values()) == ["toy-val"]
    add(2)
    first, second = table_names("toy", groups_of(store)["toy"], {"dataset": "toy", "training": {"steps": 9}}).values()
    assert first == "toy" and second.startswith("toy-") and len(second) == len("toy-") + 8
