"""Registry of executors: those of this package, and entry points ``tissuebench.executors`` of other packages."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from tissuebench.errors import ConfigError, unknown_name
from tissuebench.plans.compute import ComputeSettings
from tissuebench.sweep.executor import Executor

ENTRY_POINT_GROUP = "tissuebench.executors"
_BUILT_IN = {"local": "LocalExecutor", "inline": "InlineExecutor", "slurm": "SlurmExecutor", "ray": "RayExecutor"}
_PACKAGES = {"slurm": "submitit", "ray": "ray"}


def find_executor(name: str) -> Callable[[ComputeSettings, Path], Executor]:
    """Return the factory of the executor with this name; only the packages that it needs are imported.

    Raises:
        ConfigError: no such executor (the closest name is suggested), an optional package is missing, or an entry point
            cannot be loaded.
    """
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name in _BUILT_IN:
        return _built_in(name)
    if name in points:
        return _from_entry_point(points[name])
    raise ConfigError(unknown_name("executor", name, {*_BUILT_IN, *points}))


def _built_in(name: str) -> Callable[[ComputeSettings, Path], Executor]:
    try:
        module = importlib.import_module(f"tissuebench.executors.{name}")
    except ModuleNotFoundError as error:
        if error.name != _PACKAGES.get(name):
            raise
        raise ConfigError(f"compute.executor: {name} needs: pip install 'tissuebench[{name}]'") from error
    made: Callable[[ComputeSettings, Path], Executor] = getattr(module, _BUILT_IN[name])
    return made


def _from_entry_point(point: EntryPoint) -> Callable[[ComputeSettings, Path], Executor]:
    try:
        loaded = point.load()
    except Exception as error:
        raise ConfigError(f"entry point {point.value!r} of {ENTRY_POINT_GROUP} cannot be loaded: {error}") from error
    if not callable(loaded):
        raise ConfigError(f"entry point {point.value!r} of {ENTRY_POINT_GROUP} does not return an executor")
    made: Callable[[ComputeSettings, Path], Executor] = loaded
    return made
