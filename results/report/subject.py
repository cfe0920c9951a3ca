"""Input of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tissuebench.common.hashing import Json
from tissuebench.results.records.curves import Curves
from tissuebench.results.records.overlays import OverlayTile
from tissuebench.results.records.result_store import Failure
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.leaderboard import Leaderboard


@dataclass(frozen=True, eq=False)
class Subject:
    """Comparable results: one group of trials of one data set.

    Attributes:
        board: leaderboard of ``results`` (and of the expected cells).
        failures: failed trials of this group.
        overlays: overlay tiles by trial id; trials without pictures are left out.
        provenance: anything that readers should be able to check: licence, hashes, assumed costs.
        curves: curves of the last stage by trial id; trials that logged nothing are left out.
    """

    dataset: str
    board: Leaderboard
    results: Sequence[TrialResult]
    failures: Sequence[Failure]
    overlays: Mapping[str, Sequence[OverlayTile]]
    provenance: Mapping[str, Json]
    curves: Mapping[str, Curves] = field(default_factory=dict)
