"""The Makefile: variables that it does not know are refused, before anything runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def make(tmp_path):
    """Say what a command line of make would run."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    ready = tmp_path / ".venv" / ".ready"
    ready.parent.mkdir()
    ready.touch()
    unset = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV", "METHOD")

    def run(*arguments, **environment):
        inherited = {key: value for key, value in os.environ.items() if key not in unset}
        return subprocess.run(
            ("make", "-n", *arguments), cwd=tmp_path, env={**inherited, **environment}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bench", "BUDGET=masks:3p"), "unknown variable BUDGET: did you mean BUDGETS?"),
        (("bench", "SEED=1"), "unknown variable SEED: did you mean SEEDS?"),
        (("sweep", "METHODS=supervised"), "unknown variable METHODS: did you mean METHOD?"),
        (("sweep", "DATASETS=ebhi", "PLAN=standard"), "unknown variable DATASETS: did you mean DATASET?"),
        (("bench", "STEPS=3"), "unknown variable STEPS: known are METHOD DATASET"),
        (("bench", "METHOD="), "METHOD is empty"),
        (("check", "METHOD= "), "METHOD is empty"),
    ],
)
def test_what_is_not_known_is_one_line(make, arguments, said):
    ran = make(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bench",), "run --method 'complementary'"),
        (("bench", "METHOD=supervised", "BUDGETS=masks:3p,masks:6p"), "--budget 'masks:3p' --budget 'masks:6p'"),
        (("bench", "SEEDS=0,1", "SET=training.steps=5 seeds=[1]"), "--set 'training.steps=5' --set 'seeds=[1]'"),
        (("chaos", "SEED=3"), "chaos.py --seed 3"),
        (("perf-loader", "JSON=1"), "perf loader --json"),
        (("perf-scoring", "JSON=1"), "perf scoring --json"),
        (("method", "NAME=mine"), "new 'mine'"),
        (("data", "DATASET=folder", "DATA_ROOT=x", "MAKEFLAGS=", "SHELL=/bin/sh"), "ingest 'folder' --data-root 'x'"),
        (("test", "VENV=.venv", "PYTHON=python3"), "-m pytest"),
    ],
)
def test_what_is_known_passes(make, arguments, said):
    ran = make(*arguments)
    assert ran.returncode == 0, ran.stderr
    assert said in ran.stdout


def test_variables_of_the_environment_are_nobodys_business(make):
    assert make("bench", BUDGET="x", SEED="1", CC="gcc").returncode == 0
