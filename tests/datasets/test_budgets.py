from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tissuebench.datasets.budgets import draw_budget, patients_bought, persisted_budget, purchase_order
from tissuebench.datasets.splits import Split
from tissuebench.errors import ConfigError, DataError

cohorts = st.dictionaries(
    st.text("abcdef012345", min_size=1, max_size=4),
    st.tuples(st.sampled_from(["A", "B", "C", ""]), st.frozensets(st.integers(0, 5), max_size=4)),
    min_size=1,
    max_size=40,
)
replicates = st.integers(0, 2**32)


def order_of(cohort, replicate=0):
    return purchase_order({p: c[0] for p, c in cohort.items()}, {p: c[1] for p, c in cohort.items()}, replicate)


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


def one_order():
    return order_of({f"P{n:02}": ("ABC"[n % 3], frozenset({n % 2, n % 5})) for n in range(40)}, 3)


@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_the_order_is_the_same_in_every_process(hash_seed):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    found = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.split() == list(one_order())


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("masks:3p", 3),
        ("masks:12p", 12),
        ("masks:25%", 3),
        ("masks:26%", 4),
        ("masks:0.1%", 1),
        ("masks:33.4%", 5),
        ("masks:100%", 12),
        ("masks:all", 12),
    ],
)
def test_what_a_spec_buys_of_twelve(spec, count):
    assert patients_bought(spec, 12) == count


@given(st.integers(1, 500))
def test_a_share_that_comes_out_even_is_not_rounded_up(n):
    assert patients_bought("masks:10%", 10 * n) == n
    assert patients_bought("masks:70%", 10 * n) == 7 * n


@pytest.mark.parametrize(
    "spec",
    [
        "masks:3",
        "masks:p",
        "3p",
        "mask:3p",
        "masks:-1p",
        "masks:25",
        "masks:ALL",
        " masks:3p",
        "masks:3p ",
        "",
        "masks:",
    ],
)
def test_another_spelling_says_how_to_spell_it(spec):
    with pytest.raises(ConfigError, match=r"say 'masks:3p' \(patients\), 'masks:25%' \(a share\) or 'masks:all'"):
        patients_bought(spec, 12)


@pytest.mark.parametrize("spec", ["masks:13p", "masks:0p", "masks:0%", "masks:101%"])
def test_what_cannot_be_bought(spec):
    with pytest.raises(ConfigError, match="the training part has 12"):
        patients_bought(spec, 12)


@given(st.integers(1, 7), st.integers(1, 7), replicates)
def test_budgets_are_nested(tiny_data, small, large, replicate):
    assume(small <= large)
    less, more = (
        draw_budget(tiny_data.store, tiny_data.split, f"masks:{n}p", replicate).patients for n in (small, large)
    )
    assert more[:small] == less
    assert set(more) <= set(tiny_data.split.patients("train"))


def test_a_small_budget_shows_every_class_and_both_diagnoses(tiny_data):
    for replicate in range(20):
        budget = draw_budget(tiny_data.store, tiny_data.split, "masks:2p", replicate)
        slides = [s.slide_id for s in tiny_data.store.slides.values() if s.patient_id in budget.patients]
        shown = [tiny_data.store.withheld.class_pixels(slide_id) for slide_id in slides]
        assert all(sum(counts) > 0 for counts in zip(*shown, strict=True))


def test_cost_in_minutes(tiny_data, monkeypatch):
    budget = draw_budget(tiny_data.store, tiny_data.split, "masks:3p", 0)
    assert (budget.tiles, budget.minutes) == (3 * 6, 3 * 6 * 2.0)  # 64 x 96 px in tiles of 32: six a slide
    dearer = replace(tiny_data.store.info.costs, mask_minutes_per_tile=0.5)
    monkeypatch.setattr(tiny_data.store, "info", replace(tiny_data.store.info, costs=dearer))
    assert draw_budget(tiny_data.store, tiny_data.split, "masks:all", 0).minutes == 7 * 6 * 0.5


def test_only_training_patients_are_sold(tiny_data):
    budget = draw_budget(tiny_data.store, tiny_data.split, "masks:all", 0)
    assert sorted(budget.patients) == list(tiny_data.split.patients("train"))
    with pytest.raises(ConfigError, match="asks for 8 patients, the training part has 7"):
        draw_budget(tiny_data.store, tiny_data.split, "masks:8p", 0)


def test_the_hash_of_a_budget_covers_everything(tiny_data):
    budget = draw_budget(tiny_data.store, tiny_data.split, "masks:3p", 0)
    others = [
        replace(budget, spec="masks:4p"),
        replace(budget, replicate=1),
        replace(budget, split_sha256="0"),
        replace(budget, patients=budget.patients[::-1]),
        replace(budget, tiles=1),
        replace(budget, minutes=1.0),
    ]
    assert len({one.sha256 for one in (budget, *others)}) == 7


@pytest.mark.parametrize("spec", ["masks:3p", "masks:30%", "masks:all"])
def test_a_budget_on_file_is_used_again(tiny_data, tmp_path, spec):
    drawn = persisted_budget(tmp_path, tiny_data.store, tiny_data.split, spec, 1)
    (path,) = tmp_path.rglob("*.json")
    before = path.stat().st_mtime_ns
    again = persisted_budget(tmp_path, tiny_data.store, tiny_data.split, spec, 1)
    assert (again, again.sha256) == (drawn, drawn.sha256)
    assert json.loads(path.read_text())["sha256"] == drawn.sha256
    assert path.stat().st_mtime_ns == before
    assert drawn == draw_budget(tiny_data.store, tiny_data.split, spec, 1)


def test_specs_replicates_and_splits_have_files_of_their_own(tiny_data, tmp_path):
    other = Split("other", tiny_data.split.parts)
    for spec in ("masks:3p", "masks:3%", "masks:all"):
        for replicate in (0, 1):
            for split in (tiny_data.split, other):
                persisted_budget(tmp_path, tiny_data.store, split, spec, replicate)
    assert len(list(tmp_path.rglob("*.json"))) == 12


def test_an_edited_budget_is_refused(tiny_data, tmp_path):
    persisted_budget(tmp_path, tiny_data.store, tiny_data.split, "masks:3p", 0)
    (path,) = tmp_path.rglob("*.json")
    path.write_text(path.read_text().replace('"tiles": 18', '"tiles": 9'))
    with pytest.raises(DataError, match=r"masks-3p-r0\.json: was edited by hand"):
        persisted_budget(tmp_path, tiny_data.store, tiny_data.split, "masks:3p", 0)


@pytest.mark.parametrize("spec", ["masks:99p", "masks:lots", "masks:../../x"])
def test_a_budget_that_cannot_be_drawn_leaves_no_file(tiny_data, tmp_path, spec):
    with pytest.raises(ConfigError):
        persisted_budget(tmp_path / "budgets", tiny_data.store, tiny_data.split, spec, 0)
    assert list(tmp_path.rglob("*")) == []


if __name__ == "__main__":  # what another process draws
    print(*one_order())
