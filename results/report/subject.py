"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tissuebench.common.hashing import Json
from tissuebench.results.records.overlays import OverlayTile
from tissuebench.results.records.result_store import Failure
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.leaderboard import Leaderboard


@dataclass(frozen=True, eq=False)
class Subject:
    """Results that may be compared with each other: one group of trials of one data set.

    Attributes:
        board: made of ``results`` (and of what was expected).
        failures: of trials of this group.
        overlays: by trial id; trials without pictures are left out.
        provenance: anything a reader should be able to check: licence, hashes, costs that are assumed.
    """

    dataset: str
    board: Leaderboard
    results: Sequence[TrialResult]
    failures: Sequence[Failure]
    overlays: Mapping[str, Sequence[OverlayTile]]
    provenance: Mapping[str, Json]
