from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tissuebench.datasets.splits import Split, official_split, random_split, stratum_of
from tissuebench.errors import DataError

PARTS = ("train", "val", "test")
SHARES = (0.6, 0.1, 0.3)
cohorts = st.dictionaries(
    st.text("abcdefgh0123456789", min_size=1, max_size=5),
    st.tuples(st.sampled_from(["A", "B", "A;B", ""]), st.booleans()),
    max_size=60,
)
shares_of_parts = st.sampled_from([SHARES, (0.5, 0.25, 0.25), (0.8, 0.0, 0.2), (1.0, 0.0, 0.0)])


def split_of(cohort, seed, shares=SHARES):
    """The split of a cohort of (diagnosis, whether annotated)."""
    diagnoses = {patient: diagnosis for patient, (diagnosis, _) in cohort.items()}
    return random_split(
        "s", diagnoses, {patient for patient, (_, has_mask) in cohort.items() if has_mask}, seed, shares
    )


def counts(split, patients):
    return [len(patients & set(split.patients(part))) for part in PARTS]


@given(cohorts, st.integers(0, 2**40))
def test_random_split_is_disjoint_and_complete(cohort, seed):
    split = split_of(cohort, seed)
    dealt = [patient for part in PARTS for patient in split.patients(part)]
    assert sorted(dealt) == sorted(cohort)
    assert all(list(split.patients(part)) == sorted(split.patients(part)) for part in PARTS)


@given(cohorts, st.integers(0, 2**40), shares_of_parts)
def test_every_part_has_its_share_of_the_annotated_and_of_the_diagnosed(cohort, seed, shares):
    split = split_of(cohort, seed, shares)
    annotated = {patient for patient, (_, has_mask) in cohort.items() if has_mask}
    diagnosed = {patient for patient, (diagnosis, _) in cohort.items() if diagnosis} - annotated
    for group in (annotated, diagnosed):
        dealt = counts(split, group)
        parts = sum(map(bool, shares))
        for count, share in zip(dealt, shares, strict=True):
            assert abs(count - share * len(group)) < 2  # 1, and 1 for the part that had none
            assert count or not share or len(group) < parts
        for stratum in ("A", "B", "A;B", ""):
            members = {patient for patient in group if cohort[patient][0] == stratum}
            for count, size in zip(counts(split, members), dealt, strict=True):
                assert abs(count - size / max(1, len(group)) * len(members)) <= 1
    assert set(cohort) - annotated - diagnosed <= set(split.patients("train"))


@given(st.integers(3, 40), st.integers(0, 30), st.sampled_from(["", "AB"]), st.integers(0, 2**40))
def test_three_annotated_patients_are_enough_for_every_part(n_annotated, n_others, diagnoses, seed):
    names = [f"p{n}" for n in range(n_annotated + n_others)]
    cohort = {name: (diagnoses and diagnoses[n % 2], n < n_annotated) for n, name in enumerate(names)}
    assert min(counts(split_of(cohort, seed), set(names[:n_annotated]))) >= 1


def test_six_of_twelve_slides_annotated():
    for diagnoses, unannotated in (("", [6, 0, 0]), ("AB", [3, 1, 2])):
        cohort = {f"p{n:02}": (diagnoses and diagnoses[n // 6], n % 2 == 0) for n in range(12)}
        annotated = {patient for patient, (_, has_mask) in cohort.items() if has_mask}
        for seed in range(5):
            split = split_of(cohort, seed)
            assert counts(split, annotated) == [3, 1, 2]
            assert counts(split, set(cohort) - annotated) == unannotated


def test_a_cohort_that_is_annotated_throughout_is_split_by_the_shares():
    split = split_of({f"p{n:02}": ("AB"[n % 2], True) for n in range(40)}, 0)
    assert [len(split.patients(part)) for part in PARTS] == [24, 4, 12]


def test_diagnoses_of_a_patients_slides_make_one_stratum():
    assert stratum_of(["B", "A", "B"]) == "A;B"
    assert stratum_of([]) == ""


@given(cohorts, st.integers(0, 9))
def test_random_split_depends_on_who_is_there_and_not_on_their_order(cohort, seed):
    assert split_of(cohort, seed) == split_of(dict(reversed(cohort.items())), seed)


def test_seeds_give_other_splits():
    cohort = {f"P{n:02}": ("AB"[n % 2], True) for n in range(30)}
    assert len({split_of(cohort, seed).sha256 for seed in range(10)}) == 10


def one_split() -> Split:
    return split_of({f"P{n:02}": ("ABC"[n % 3], n % 5 > 0) for n in range(40)}, 3)


@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_random_split_is_the_same_in_every_process(hash_seed):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    found = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.split() == [one_split().sha256, *one_split().patients("test")]


def test_official_split():
    split = official_split("s", [("P2", "train"), ("P1", "train"), ("P3", "test"), ("P1", "train")])
    assert split.patients("train") == ("P1", "P2")
    assert (split.patients("val"), split.patients("test")) == ((), ("P3",))


def test_a_patient_in_two_parts_is_named():
    with pytest.raises(DataError, match="patient 'P1' is in both 'train' and 'test'"):
        official_split("s", [("P1", "train"), ("P2", "train"), ("P1", "test")])
    with pytest.raises(DataError, match="'P9'"):
        Split("s", {"val": ("P9",), "test": ("P8", "P9")})


def test_written_and_read(tmp_path):
    path = tmp_path / "deep" / "split.json"
    split = one_split()
    split.write(path)
    assert Split.read(path) == split
    assert json.loads(path.read_text())["sha256"] == split.sha256
    assert [found.name for found in path.parent.iterdir()] == ["split.json"]


def test_the_hash_covers_name_and_parts():
    split = one_split()
    moved = {**split.parts, "val": split.parts["val"][1:], "test": (*split.parts["test"], split.parts["val"][0])}
    assert len({split.sha256, Split("t", split.parts).sha256, Split("s", moved).sha256}) == 3


def test_an_edited_split_is_refused(tmp_path):
    path = tmp_path / "split.json"
    one_split().write(path)
    path.write_text(path.read_text().replace("P01", "P99"))
    with pytest.raises(DataError, match=r"split\.json: was edited by hand"):
        Split.read(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"sha256": 1}', b"\xff\xfe\x00"])
def test_a_file_that_is_no_split(tmp_path, content):
    path = tmp_path / "split.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"split\.json: not a file of this suite"):
        Split.read(path)
    with pytest.raises(DataError, match="no such file"):
        Split.read(Path(tmp_path / "none.json"))


def test_a_hashed_file_of_another_kind(tmp_path):
    from tissuebench.datasets.documents import write_hashed_json

    write_hashed_json(tmp_path / "split.json", {"spec": "masks:3p"})
    with pytest.raises(DataError, match="is not a split file"):
        Split.read(tmp_path / "split.json")


if __name__ == "__main__":  # what another process draws
    print(one_split().sha256, *one_split().patients("test"))
