"""The order in which patients are bought: drawn, and stratified by the diagnosis that is furthest behind."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.labels.purchases import one_order, replicates
from tests.processes import output_of
from tissuebench.datasets.labels.purchase import purchase_order

cohorts = st.dictionaries(
    st.text("abcdef012345", min_size=1, max_size=4),
    st.tuples(st.sampled_from(["A", "B", "C", ""]), st.booleans()),
    min_size=1,
    max_size=40,
)


def order_of(cohort, replicate):
    """The order of the patients who are for sale."""
    diagnoses = {patient: diagnosis for patient, (diagnosis, _) in cohort.items()}
    return purchase_order(diagnoses, [patient for patient, (_, sold) in cohort.items() if sold], replicate)


@given(cohorts, replicates)
def test_every_patient_for_sale_is_bought_once(cohort, replicate):
    assert sorted(order_of(cohort, replicate)) == sorted(patient for patient, (_, sold) in cohort.items() if sold)


@given(cohorts, replicates)
def test_the_order_does_not_depend_on_the_order_of_the_cohort(cohort, replicate):
    assert order_of(cohort, replicate) == order_of(dict(reversed(cohort.items())), replicate)


@given(cohorts, replicates)
def test_the_next_diagnosis_is_the_one_that_is_furthest_behind(cohort, replicate):
    """Relative to its share of all training patients, not only of those who are for sale."""
    order = order_of(cohort, replicate)
    sizes = Counter(diagnosis for diagnosis, _ in cohort.values())
    taken: Counter[str] = Counter()
    for position, patient in enumerate(order):
        behind = {p: Fraction(taken[cohort[p][0]], sizes[cohort[p][0]]) for p in order[position:]}
        assert behind[patient] == min(behind.values())
        taken[cohort[patient][0]] += 1


@given(st.integers(1, 30), st.integers(1, 30), replicates)
def test_two_diagnoses_are_within_one_of_their_share(n_a, n_b, replicate):
    cohort = {f"P{n:02}": ("A" if n < n_a else "B", True) for n in range(n_a + n_b)}
    taken: Counter[str] = Counter()
    for count, patient in enumerate(order_of(cohort, replicate), start=1):
        taken[cohort[patient][0]] += 1
        assert abs(taken["A"] - count * n_a / (n_a + n_b)) <= 1 + 1e-9


COHORTS = {
    "no diagnosis": {f"P{n:03}": ("", True) for n in range(148)},
    "two": {f"P{n:03}": ("AB"[n % 2], True) for n in range(148)},
    "two of unequal size": {f"P{n:03}": ("AAAB"[n % 4], True) for n in range(148)},
}


@pytest.mark.parametrize("name", COHORTS)
def test_two_draws_of_three_patients_share_what_chance_lets_them_share(name):
    """3 of 148: each patient of one draw is in another with a probability of 2 %, not of 28 %."""
    draws = [set(order_of(COHORTS[name], replicate)[:3]) for replicate in range(300)]
    pairs = list(combinations(draws, 2))
    shared = sum(len(one & other) for one, other in pairs) / (3 * len(pairs))
    assert shared == pytest.approx(3 / 148, abs=0.006)


@pytest.mark.parametrize("name", COHORTS)
def test_the_first_patient_may_be_anybody(name):
    first = Counter(order_of(COHORTS[name], replicate)[0] for replicate in range(148 * 20))
    assert set(first) == set(COHORTS[name])
    expected = 20
    chi_squared = sum((count - expected) ** 2 / expected for count in first.values())
    assert chi_squared < 147 + 4 * (2 * 147) ** 0.5  # four standard deviations


def test_replicates_differ():
    cohort = {f"P{n:02}": ("AB"[n % 2], True) for n in range(20)}
    assert len({order_of(cohort, replicate) for replicate in range(20)}) == 20


@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_the_order_is_the_same_in_every_process(hash_seed):
    found = output_of("tests.datasets.labels.purchases", "patients", PYTHONHASHSEED=hash_seed)
    assert found.split() == list(one_order())
