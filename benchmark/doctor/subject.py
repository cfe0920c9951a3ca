"""Subject of the examination: checks that share a process, and how long it may take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tissuebench.doctor.finding import Finding

Check = Callable[[Path], Iterable[Finding]]
"""Looks at one thing, given the home folder; whatever it raises becomes a note."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Checks that share a process.

    Attributes:
        checks: by the name that a check has if it cannot report.
        seconds: that all of them may take together, with the imports.
        advice: what to do if a check cannot report.
    """

    checks: Mapping[str, Check]
    seconds: float
    advice: str


def subject_of(module: str) -> Subject:
    """Return the ``SUBJECT`` of a module, whose import is light."""
    subject = import_module(module).SUBJECT
    assert isinstance(subject, Subject)  # noqa: S101 - our own modules
    return subject
