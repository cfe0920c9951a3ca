"""One line of the examination."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Verdict on what was found: fine, worth knowing, or in the way of a run."""

    OK = "ok"
    NOTE = "note"
    FIX = "fix"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination.

    Attributes:
        name: what was looked at.
        state: the verdict.
        found: what was found.
        advice: what to do; empty if the state is ``ok``.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Finding:
    """Return a finding that is fine."""
    return Finding(name, State.OK, found)


def note(name: str, found: str, advice: str) -> Finding:
    """Return a finding that is worth knowing; runs work all the same."""
    return Finding(name, State.NOTE, found, advice)


def fix(name: str, found: str, advice: str) -> Finding:
    """Return a finding that stands in the way of a run."""
    return Finding(name, State.FIX, found, advice)


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, or its name without one."""
    said = getattr(error, "strerror", None) or str(error)
    return (str(said).strip().splitlines() or [type(error).__name__])[0]
