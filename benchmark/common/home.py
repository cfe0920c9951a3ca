"""The home folder, which holds ``data/`` and ``runs/``."""

from __future__ import annotations

import os
from pathlib import Path

from tissuebench.errors import ConfigError


def default_home() -> Path:
    """Return ``$TISSUEBENCH_HOME``, or else the current folder."""
    return Path(os.environ.get("TISSUEBENCH_HOME", "."))


def existing_home(home: Path | str | None, named: str = "home") -> Path:
    """Return the home folder, by default ``default_home``.

    Raises:
        ConfigError: there is no such folder; ``named`` says where it was given.
    """
    path = default_home() if home is None else Path(home)
    if not path.is_dir():
        raise ConfigError(f"{named} {path}: no such folder; give the one that holds data/ and runs/")
    return path


def existing_or_new_home(home: Path | str | None, named: str = "home") -> Path:
    """Return the home folder, by default ``default_home``; the folder above it exists at least.

    Raises:
        ConfigError: neither exists; ``named`` says where it was given.
    """
    path = default_home() if home is None else Path(home)
    if not path.is_dir() and not path.absolute().parent.is_dir():
        raise ConfigError(f"{named} {path}: neither this folder nor the one that it would be made in exists")
    return path
