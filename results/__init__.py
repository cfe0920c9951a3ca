"""Trial results: records, statistics, tables and reports. Never imports torch.

``frame``, ``patients``, ``slides``, ``board`` and ``curves`` return what is stored as pandas DataFrames; pandas is only
imported when one of them is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if __name__ != "tissuebench.results":
    raise ImportError(
        "this folder is the package 'tissuebench.results'; import it under that name "
        "(a bare 'import results' from the repository root would shadow other packages)"
    )

if TYPE_CHECKING:
    from tissuebench.results.frames.of_home import board, curves, frame, patients, slides

__all__ = ["board", "curves", "frame", "patients", "slides"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module("tissuebench.results.frames.of_home"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
