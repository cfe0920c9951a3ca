"""Packages against what is required, with distributions made for it."""

from __future__ import annotations

import os
import sys

import pytest

from tissuebench.doctor import software
from tissuebench.doctor.finding import State


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A site of our own in front: writes distributions by name, version and lines of metadata."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, version: str, *lines: str) -> None:
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        head = ("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}")
        (info / "METADATA").write_text("\n".join((*head, *lines)) + "\n")

    return install


def suite_that_requires(installed, *requirements: str, python: str = ">=3.11") -> None:
    extras = ("Provides-Extra: fast", "Provides-Extra: dev")
    installed(
        "tissuebench", "9.9", f"Requires-Python: {python}", *(f"Requires-Dist: {r}" for r in requirements), *extras
    )


def test_this_environment_is_as_required():
    assert [finding.state for finding in software.packages(None)] == [State.OK]
    assert [finding.state for finding in software.python(None)] == [State.OK]
    (found,) = software.suite(None)
    assert (found.name, found.state) == ("TissueBench", State.OK)
    assert "revision " in found.found


def test_a_wrong_and_a_missing_package_are_named_with_what_to_type(installed):
    suite_that_requires(
        installed, "alpha[x]>=1,<2", "beta>=3", "gone-for-good>=1", 'windows-only; sys_platform == "win32"'
    )
    installed("alpha", "1.5+local")
    installed("beta", "2.0")
    summary, beta, gone = software.packages(None)
    assert summary.found.startswith("1 of 3 as required")
    assert (beta.name, beta.state, beta.found) == ("beta", State.FIX, "2.0 is installed, >=3 is required")
    assert beta.advice == "pip install 'beta>=3'"
    assert (gone.name, gone.state, gone.found) == ("gone-for-good", State.FIX, "not installed")


def test_an_extra_is_there_absent_or_half_there(installed):
    suite_that_requires(installed, 'gamma>=2; extra == "fast"', 'delta; extra == "fast"', 'absent; extra == "dev"')
    (found,) = software.optional_packages(None)
    assert found.state is State.OK
    assert found.found == "not installed: fast (pip install 'tissuebench[fast]')"
    installed("gamma", "1.0")
    half, _ = software.optional_packages(None)
    assert (half.name, half.state) == ("tissuebench[fast]", State.NOTE)
    assert half.found == "gamma 1.0 is installed, >=2 is required; delta not installed"


def test_a_python_that_is_not_supported(installed):
    suite_that_requires(installed, python=">=3.99")
    (found,) = software.python(None)
    assert found.state is State.FIX
    assert ">=3.99" in found.advice


def test_openslide_that_is_absent_and_one_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setattr(software.importlib.util, "find_spec", lambda name: None)
    (found,) = software.openslide(None)
    assert found.state is State.OK
    assert "pip install 'tissuebench[openslide]'" in found.found
    monkeypatch.undo()
    (tmp_path / "openslide.py").write_text("raise OSError('libopenslide.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openslide", raising=False)
    with pytest.raises(OSError, match="libopenslide"):
        list(software.openslide(None))


def test_slurm_without_submitit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert [(f.state, f.found) for f in software.slurm(None)] == [(State.OK, "not here: no sbatch")]
    (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(software.importlib.util, "find_spec", lambda name: None)
    (found,) = software.slurm(None)
    assert (found.state, found.found) == (State.NOTE, "here, but submitit is not")
    assert [f.state for f in software.ray(None)] == [State.OK]
