"""Selection of predictions to show side by side: the chosen tiles, one trial per method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from tissuebench.results.records.overlays import OverlayTile, read_overlays
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.leaderboard import LOWER, UPPER


@dataclass(frozen=True)
class SideBySide:
    """One tile of a test slide.

    Attributes:
        tile: the tile as stored by one of the trials; image and truth are the same for all.
        predictions: palette PNG of each method, ``supervised`` first and ``full`` last.
    """

    tile: OverlayTile
    predictions: Mapping[str, Path]


def one_trial_each(results: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the first draw and seed of each method at the budget that most of them have.

    Ties go to the budget with more minutes. ``full`` is taken at its own budget; a method without results at the common
    one is left out.
    """
    methods: dict[str, set[str]] = defaultdict(set)
    minutes: dict[str, list[float]] = defaultdict(list)
    for result in results:
        if not _is_full(result):
            methods[result.budget].add(result.method)
            minutes[result.budget].append(result.minutes)
    common = max(methods, key=lambda spec: (len(methods[spec]), mean(minutes[spec]), spec), default=None)
    first: dict[str, TrialResult] = {}
    for result in sorted(results, key=lambda result: (result.replicate, result.seed)):
        if _is_full(result) or result.budget == common:
            first.setdefault(result.method, result)
    return sorted(first.values(), key=lambda result: (_is_full(result), result.method != LOWER, result.method))


def side_by_side(home: Path, results: Sequence[TrialResult]) -> list[SideBySide]:
    """Return the chosen tiles of these trials, sorted by slide and position.

    Raises:
        DataError: the index of a trial is damaged.
    """
    tiles: dict[tuple[str, int, int], OverlayTile] = {}
    predictions: dict[tuple[str, int, int], dict[str, Path]] = defaultdict(dict)
    for result in results:
        for tile in read_overlays(home, result.trial_id):
            if tile.reason == "chosen":
                where = (tile.slide_id, tile.y, tile.x)
                tiles.setdefault(where, tile)
                predictions[where][result.method] = tile.prediction
    return [SideBySide(tiles[where], predictions[where]) for where in sorted(tiles)]


def _is_full(result: TrialResult) -> bool:
    return result.method.partition("[")[0] == UPPER
