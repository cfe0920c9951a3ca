"""Executors by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tissuebench.errors import ConfigError
from tissuebench.executors.local import LocalExecutor
from tissuebench.executors.registry import find_executor


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package of somebody else's with an executor; written by the caller."""
    info = tmp_path / "somewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tissuebench.executors]\nelsewhere = tissuebench_elsewhere:make\nbroken = tissuebench_elsewhere:missing\n"
        "number = tissuebench_elsewhere:number\n"
    )
    (tmp_path / "tissuebench_elsewhere.py").write_text("def make(compute, home): return (compute, home)\nnumber = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("tissuebench_elsewhere", None)


def test_a_built_in_executor_is_found():
    assert find_executor("local") is LocalExecutor


def test_an_unknown_name_is_told_the_nearest(plugin):
    with pytest.raises(ConfigError, match=r"unknown executor 'slurn': did you mean 'slurm'\?.*elsewhere.*local"):
        find_executor("slurn")


def test_an_executor_of_another_package_is_found(plugin, tmp_path):
    assert find_executor("elsewhere")(None, tmp_path) == (None, tmp_path)


@pytest.mark.parametrize(("name", "words"), [("broken", "cannot be loaded"), ("number", "does not return an executor")])
def test_an_entry_point_that_is_none_is_one_line(plugin, name, words):
    with pytest.raises(ConfigError, match=f"tissuebench_elsewhere.*{words}"):
        find_executor(name)


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_is_named_with_what_to_do(name, package, monkeypatch):
    for module in [module for module in sys.modules if module.startswith(f"tissuebench.executors.{name}")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"pip install 'tissuebench\[{name}\]'"):
        find_executor(name)


def test_only_the_packages_of_the_executor_are_imported():
    code = (
        "import sys\nfrom tissuebench.executors.registry import find_executor\nfind_executor('local')\n"
        "assert not {'torch', 'ray', 'submitit', 'lightning'} & set(sys.modules), set(sys.modules)"
    )
    subprocess.run((sys.executable, "-P", "-c", code), check=True, timeout=60)
