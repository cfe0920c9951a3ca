"""Child processes of a script that has no main guard."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def main_left_alone() -> Iterator[None]:
    """Keep processes that are spawned inside from importing the caller's script.

    They would run it again from its first line, unless it has ``if __name__ == "__main__"``. What our processes call
    never lives in a script.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
