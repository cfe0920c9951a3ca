from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tissuebench.datasets.splits import Split, official_split, random_split
from tissuebench.errors import DataError

PARTS = ("train", "val", "test")
SHARES = (0.6, 0.1, 0.3)
strata = st.dictionaries(
    st.text("abcdefgh0123456789", min_size=1, max_size=5), st.sampled_from(["A", "B", "A;B", ""]), max_size=60
)


@given(strata, st.integers(0, 2**40))
def test_random_split_is_disjoint_and_complete(patients, seed):
    split = random_split("s", patients, seed)
    dealt = [patient for part in PARTS for patient in split.patients(part)]
    assert sorted(dealt) == sorted(patients)
    assert all(list(split.patients(part)) == sorted(split.patients(part)) for part in PARTS)


@given(strata, st.integers(0, 2**40), st.sampled_from([SHARES, (0.5, 0.25, 0.25), (0.8, 0.0, 0.2), (1.0, 0.0, 0.0)]))
def test_every_stratum_has_its_shares(patients, seed, shares):
    split = random_split("s", patients, seed, shares)
    for stratum, size in Counter(patients.values()).items():
        for part, share in zip(PARTS, shares, strict=True):
            given = sum(patients[patient] == stratum for patient in split.patients(part))
            assert abs(given - share * size) <= 1


@given(strata, st.integers(0, 9))
def test_random_split_depends_on_who_is_there_and_not_on_their_order(patients, seed):
    backwards = dict(reversed(patients.items()))
    assert random_split("s", patients, seed) == random_split("s", backwards, seed)


def test_seeds_give_other_splits():
    patients = {f"P{n:02}": "AB"[n % 2] for n in range(30)}
    assert len({random_split("s", patients, seed).sha256 for seed in range(10)}) == 10


def one_split() -> Split:
    return random_split("s", {f"P{n:02}": "ABC"[n % 3] for n in range(40)}, 3)


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
