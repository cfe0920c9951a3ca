"""``tissuebench doctor``: the whole of it, once as text and once as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from tissuebench.cli.main import cli
from tissuebench.doctor import examine as examination
from tissuebench.doctor.finding import Finding, fix, note, ok

NAMES = [
    *("Python", "TissueBench", "packages", "optional packages", "OpenSlide", "SLURM", "Ray", "cores", "memory"),
    *("GPU driver", "PyTorch", "NCCL", "home", "free space", "disk speed", "file locks", "replacing files"),
    *("encoder weights", "foundation encoders", "model hub", "Weights & Biases"),
]
OFFLINE = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}


def doctor(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "tissuebench", "doctor", *options]
    own = {**os.environ, **OFFLINE, **environment}
    return subprocess.run(command, env=own, capture_output=True, text=True, timeout=60)


def test_this_machine(tmp_path):
    """Nothing to fix where the tests run, unless a disk is full; no name of a person, no secret, nothing left."""
    started = time.monotonic()
    done = doctor("--json", "--home", str(tmp_path), HOME=str(tmp_path), WANDB_API_KEY="feedc0de" * 5)
    assert time.monotonic() - started < 40
    found = json.loads(done.stdout)
    assert set(NAMES) <= {each["name"] for each in found}
    assert all(set(each) == {"name", "state", "found", "advice"} for each in found)
    assert all((each["state"] == "ok") == (not each["advice"]) for each in found)
    assert not [each for each in found if "could not be checked" in each["found"]]
    assert done.returncode == int(any(each["state"] == "fix" for each in found))
    assert done.stderr == ""
    assert "feedc0de" not in done.stdout
    assert str(tmp_path) not in done.stdout
    assert next(each["found"] for each in found if each["name"] == "home").startswith("~: writable")
    assert not [path for path in tmp_path.rglob("*") if "doctor" in path.name]


@pytest.fixture
def findings(monkeypatch):
    """Puts findings in the place of an examination."""

    def put(*found: Finding) -> None:
        monkeypatch.setattr(examination, "examine", lambda home: iter(found))

    return put


def test_lines_and_exit_codes(findings):
    findings(ok("Python", "3.11"), note("home", "on tmpfs", "move it"))
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.output == "ok    Python: 3.11\nnote  home: on tmpfs\n      -> move it\n"
    assert done.exit_code == 0
    findings(fix("home", "read-only", "choose another"), ok("Python", "3.11"))
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.output.startswith("fix   home: read-only\n      -> choose another\n")
    assert done.exit_code == 1
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    assert [each["state"] for each in json.loads(done.output)] == ["fix", "ok"]
    assert done.exit_code == 1


def test_bad_usage_is_told_from_something_to_fix():
    assert doctor("--hom", "x").returncode == 2


def test_the_command_itself_imports_nothing_heavy(tmp_path):
    """It asks other processes, so that it answers whatever hangs."""
    code = (
        "import sys; sys.argv = ['tissuebench', 'doctor', '--home', sys.argv[1]]\n"
        "from tissuebench.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'wandb', 'pandas', 'huggingface_hub', 'openslide'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path / "later")],
        env={**os.environ, **OFFLINE}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert not (tmp_path / "later").exists()
