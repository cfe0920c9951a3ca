"""A checkout of one's own in which the commands of a page run: nothing that they write is seen by anybody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.docs.pages import ROOT

_FOLDERS = ("benchmark", "methods", "datasets", "results", "src", "docs")
_FILES = ("Makefile", "pyproject.toml", "constraints.txt", "mkdocs.yml", "README.md")
_SECONDS = 900


@dataclass(frozen=True)
class Workspace:
    """The folder in which a reader types.

    Attributes:
        root: a copy of the project, without tests.
        environment: of what is typed.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, path: str, text: str) -> None:
        """Write a file as the reader would."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def type(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line in the shell; standard output and error come together, as a terminal shows them."""
        return subprocess.run(
            ("bash", "-c", line), cwd=self.root, env=self.environment, text=True, timeout=_SECONDS, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


def make_workspace(root: Path, environment: Mapping[str, str]) -> Workspace:
    """Copy the project; its ``.venv`` has this Python, and imports the copy."""
    root.mkdir(parents=True)
    for name in _FOLDERS:
        shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _FILES:
        shutil.copy2(ROOT / name, root / name)
    programs = root / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, module in (
        ("python", ""),
        ("tissuebench", " -m tissuebench"),
        ("wandb", " -m wandb"),
        ("mkdocs", " -m mkdocs"),
    ):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P{module} "$@"\n')
        program.chmod(0o755)
    (root / ".venv" / ".ready").touch()
    mine = {
        "PYTHONPATH": os.pathsep.join([str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "WANDB_MODE": "disabled",
        "COLUMNS": "120",
    }
    unset = ("TISSUEBENCH_HOME", "MAKEFLAGS", "MAKELEVEL", "VENV", "MFLAGS")
    inherited = {key: value for key, value in os.environ.items() if key not in unset}
    return Workspace(root, {**inherited, **mine, **environment})
