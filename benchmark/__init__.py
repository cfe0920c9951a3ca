"""TissueBench: which weak-supervision strategy is worth a pathologist's time?

For notebooks and scripts: ``run``, ``open_dataset``, ``load_method`` and ``results``, each imported when it is first
used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if __name__ != "tissuebench":
    raise ImportError("this folder is the package 'tissuebench'; import it under that name")

if TYPE_CHECKING:
    from tissuebench import results
    from tissuebench.notebook.dataset import open_dataset
    from tissuebench.notebook.run import run
    from tissuebench.notebook.trained import load_method

__all__ = ["load_method", "open_dataset", "results", "run"]
__version__ = version("tissuebench")

_ROOMS = {"load_method": "trained", "open_dataset": "dataset", "run": "run"}


def __getattr__(name: str) -> object:
    if name == "results":
        return import_module("tissuebench.results")
    if name in _ROOMS:
        return getattr(import_module(f"tissuebench.notebook.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
