"""One file for the table of each group of results: none replaces another."""

import csv
import os
from dataclasses import replace

import numpy as np
import pytest

from tissuebench.common.hashing import content_hash
from tissuebench.results.export.table_files import write_tables
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import groups_of, settings_key
from tissuebench.results.tables.leaderboard import build


@pytest.fixture
def study(tmp_path, make_trial):
    """Finish trials under some settings and write the table, as the main job does; returns the files' row counts."""
    store, folder = ResultStore(tmp_path / "results"), tmp_path / "tables"
    calls = iter(range(100))

    def run(n, part="test", steps=300):
        at = next(calls)
        for seed in range(n):
            one = make_trial(seed=seed, rng=np.random.default_rng(seed))
            identity = {"seed": seed, "training": {"steps": steps}, "evaluation": {"part": part}}
            one = replace(one, identity=identity, trial_id=content_hash(identity)[:16])
            store.write(one)
            os.utime(store.path(one.trial_id), (1e9 + at, 1e9 + at))
        groups = groups_of(store)["toy"]
        own = next(group for group in groups if group.key == settings_key(identity))
        path = write_tables(folder, "toy", groups, identity, build(own.results).rows)
        assert {file.stem for file in folder.glob("*.csv")} == {file.stem for file in folder.glob("*.json")}
        return path.stem

    run.folder = folder
    return run


def seeds(folder):
    """Number of seeds in each table."""
    return {path.stem: next(csv.DictReader(path.open()))["n_seeds"] for path in sorted(folder.glob("*.csv"))}


def test_a_validation_run_has_a_file_of_its_own(study):
    assert study(2) == "toy"
    before = (study.folder / "toy.csv").read_bytes()
    assert study(5, part="val") == "toy-val"
    assert (study.folder / "toy.csv").read_bytes() == before
    assert seeds(study.folder) == {"toy": "2", "toy-val": "5"}


def test_a_table_that_is_no_longer_the_main_one_is_kept(study):
    assert study(2) == "toy"
    assert study(3, steps=600) == "toy"  # more trials
    kept = {name: n for name, n in seeds(study.folder).items() if name != "toy"}
    assert seeds(study.folder)["toy"] == "3" and list(kept.values()) == ["2"]
    (old,) = kept
    assert study(4) == "toy"  # the first one again, and larger
    found = seeds(study.folder)
    assert old not in found and found.pop("toy") == "4" and list(found.values()) == ["3"]


def test_other_settings_do_not_touch_the_main_table(study):
    study(3)
    before = (study.folder / "toy.csv").read_bytes()
    name = study(1, steps=5)
    assert name.startswith("toy-") and (study.folder / "toy.csv").read_bytes() == before
    assert study(1, steps=5) == name
    assert seeds(study.folder) == {"toy": "3", name: "1"}
