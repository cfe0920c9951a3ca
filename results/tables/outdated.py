"""Results of an earlier protocol, which no table shows."""

from __future__ import annotations

from collections.abc import Sequence

from tissuebench.common.protocol import PROTOCOL_VERSION
from tissuebench.results.records.trial_result import TrialResult


def is_outdated(result: TrialResult) -> bool:
    """Whether the result is of an earlier protocol, so that the same trial would now give another one."""
    return result.identity.get("protocol") != PROTOCOL_VERSION


def outdated(results: Sequence[TrialResult]) -> int:
    """Return the number of results of an earlier protocol."""
    return sum(map(is_outdated, results))


def note_of_outdated(number: int) -> str | None:
    """Return what to tell of so many results of an earlier protocol, in one line; None if there are none."""
    if not number:
        return None
    told = "1 result of an earlier protocol is" if number == 1 else f"{number} results of an earlier protocol are"
    return f"{told} not shown: run {'its plan' if number == 1 else 'their plans'} again"
