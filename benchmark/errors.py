"""Expected failures: the command line shows each as one line and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TissueBenchError(Exception):
    """Bad input or configuration. The message names the file, the key and what to do."""


class DataError(TissueBenchError):
    """A slide, annotation, manifest or store cannot be used as it is."""


class ConfigError(TissueBenchError):
    """A plan, budget, method or option cannot be used as it is."""


class WithheldLabelError(TissueBenchError):
    """A label that the budget did not buy was requested."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a one-line message for an unknown name: the closest known name, then all of them."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}: {hint}known: {', '.join(options) or 'none'}"
