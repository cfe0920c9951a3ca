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
    near = closest(name, options)
    hint = "" if near is None else f"did you mean {near!r}? "
    return f"unknown {kind} {name!r}: {hint}known: {', '.join(options) or 'none'}"


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like ``name``, whatever the capitals; None if none is like it."""
    options = {option.casefold(): option for option in sorted(known, reverse=True)}
    near = difflib.get_close_matches(name.casefold(), options, n=1)
    return options[near[0]] if near else None
