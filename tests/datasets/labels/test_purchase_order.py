"""The order in which patients are bought: unseen classes first, then the diagnosis that is furthest behind."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.labels.purchases import one_order, order_of, replicates
from tests.processes import output_of
from tissuebench.datasets.labels.draw_budget import draw_budget

cohorts = st.dictionaries(
    st.text("abcdef012345", min_size=1, max_size=4),
    st.tuples(st.sampled_from(["A", "B", "C", ""]), st.frozensets(st.integers(0, 5), max_size=4)),
    min_size=1,
    max_size=40,
)


@given(cohorts, replicates)
def test_every_patient_is_bought_once(cohort, replicate):
    assert sorted(order_of(cohort, replicate)) == sorted(cohort)


@given(cohorts, replicates)
def test_the_order_does_not_depend_on_the_order_of_the_cohort(cohort, replicate):
    assert order_of(cohort, replicate) == order_of(dict(reversed(cohort.items())), replicate)


@given(cohorts, replicates)
def test_each_purchase_keeps_the_promises_of_the_order(cohort, replicate):
    """Most unseen classes first; among those, the diagnosis that is furthest behind."""
    order = order_of(cohort, replicate)
    sizes = Counter(diagnosis for diagnosis, _ in cohort.values())
    seen: set[int] = set()
    taken: Counter[str] = Counter()
    for position, bought in enumerate(order):
        left = order[position:]
        new = {patient: len(cohort[patient][1] - seen) for patient in left}
        assert new[bought] == max(new.values())
        behind = {p: taken[cohort[p][0]] / sizes[cohort[p][0]] for p in left if new[p] == new[bought]}
        assert behind[bought] == min(behind.values())
        seen |= cohort[bought][1]
        taken[cohort[bought][0]] += 1


@given(cohorts, replicates)
def test_every_class_is_there_once_no_purchase_adds_one(cohort, replicate):
    seen: set[int] = set()
    everything = {index for _, classes in cohort.values() for index in classes}
    for bought in order_of(cohort, replicate):
        if seen == everything:
            break
        assert cohort[bought][1] - seen  # no purchase is wasted while a class is missing
        seen |= cohort[bought][1]
    assert seen == everything


@given(st.integers(1, 30), st.integers(1, 30), replicates)
def test_two_diagnoses_are_within_one_of_their_share(n_a, n_b, replicate):
    cohort = {f"P{n:02}": ("A" if n < n_a else "B", frozenset({0})) for n in range(n_a + n_b)}
    taken: Counter[str] = Counter()
    for count, bought in enumerate(order_of(cohort, replicate), start=1):
        taken[cohort[bought][0]] += 1
        # the first purchase, which brings the only class, is drawn from both
        assert abs(taken["A"] - count * n_a / (n_a + n_b)) <= 1 + 1e-9


def test_replicates_differ():
    cohort = {f"P{n:02}": ("AB"[n % 2], frozenset({0, 1 + n % 2})) for n in range(20)}
    assert len({order_of(cohort, replicate) for replicate in range(20)}) == 20
    assert len({order_of(cohort, replicate)[0] for replicate in range(60)}) > 10


GOLDEN = {
    0: "25 23 10 19 14 08 20 21 12 27 17 11 05 13 18 22 09 24 07 15 06 29 28 16 03 01 00 02 26 04",
    1: "24 23 21 05 25 08 20 01 04 17 06 07 22 13 19 14 09 03 12 18 16 29 11 27 10 26 00 02 28 15",
    12345: "02 03 29 21 05 18 23 15 14 24 20 01 25 06 19 00 17 13 12 11 27 22 07 10 09 26 04 16 28 08",
}
TINY_GOLDEN = {0: "01 06 02 05 00 03 04", 1: "06 01 00 03 04 05 02", 2: "01 04 02 03 00 05 06"}


@pytest.mark.parametrize("replicate", GOLDEN)
def test_the_order_is_the_one_of_the_first_version(replicate):
    """Recorded before slides without annotation and minutes came in: published budgets stay what they are."""
    strata = ("A", "B", "A;B", "")
    cohort = {f"P{n:02}": (strata[n % 7 % 4], frozenset({n % 2, n % 5, n * n % 7})) for n in range(30)}
    assert order_of(cohort, replicate) == tuple(f"P{n}" for n in GOLDEN[replicate].split())


@pytest.mark.parametrize("replicate", TINY_GOLDEN)
def test_the_tiny_cohort_is_bought_as_in_the_first_version(tiny_data, replicate):
    budget = draw_budget(tiny_data.store, tiny_data.split, "masks:all", replicate)
    assert budget.patients == tuple(f"case{n}" for n in TINY_GOLDEN[replicate].split())
    assert (budget.tiles, budget.minutes) == (42, 84.0)


@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_the_order_is_the_same_in_every_process(hash_seed):
    found = output_of("tests.datasets.labels.purchases", "patients", PYTHONHASHSEED=hash_seed)
    assert found.split() == list(one_order())
