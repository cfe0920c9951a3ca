"""Selection of comparable results: those that differ only in method, budget, draw and seed. Never imports torch.

Results of one dataset fall into groups: trials of one group share the part that was scored, all settings but the
method's own, the store and the split. One group is the main one, whose table is shown unless others are asked for: of
those scored on the test part (if there are any) that with the most trials, the most recent one if there are several.
A validation run, or a try with other settings, does not take its place. Results of an earlier protocol are not shown:
their plans must be run again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tissuebench.common.hashing import Json, content_hash
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import TEST, TrialResult, part_of

if TYPE_CHECKING:
    from tissuebench.results.tables.leaderboard import Leaderboard

_MAY_DIFFER = ("method", "config", "budget", "seed")
_SHORT = 8


def results_folder(home: Path) -> Path:
    """Return the folder of finished trials."""
    return home / "runs" / "results"


def settings_key(identity: Mapping[str, Json]) -> str:
    """Return a hash of everything in a trial's identity that must be equal for two results to be comparable."""
    return content_hash(_shared(identity))


def comparison_key(result: TrialResult) -> str:
    """Return ``settings_key`` of a result."""
    return settings_key(result.identity)


@dataclass(frozen=True, eq=False)
class Group:
    """Comparable results of one dataset.

    Attributes:
        key: ``settings_key`` of all of them.
        part: part of the split that was scored.
        latest: time of the latest result, in seconds.
        remark: what readers must know to tell this table from the main one; empty for a main table of the test part.
    """

    dataset: str
    key: str
    part: str
    results: tuple[TrialResult, ...]
    latest: float
    remark: str = ""


@dataclass(frozen=True)
class Selection:
    """Groups to show, by dataset, the main one first, and groups that are left out."""

    groups: tuple[Group, ...]
    others: tuple[Group, ...] = ()
    n_outdated: int = 0

    @property
    def notes(self) -> list[str]:
        """Lines about results that are not shown."""
        lines = []
        n = sum(len(group.results) for group in self.others)
        validated = sum(len(group.results) for group in self.others if group.part != TEST)
        if n:
            scored = f" ({validated} scored on the validation part)" if validated else ""
            lines.append(f"{_trials(n)} under other settings{scored}: 'tissuebench results table --all'")
        if self.n_outdated:
            lines.append(f"{_trials(self.n_outdated)} of an earlier protocol not shown: run the plans again")
        return lines


def select(store: ResultStore, dataset: str | None = None, everything: bool = False) -> Selection:
    """Load all results and choose the main group of each dataset (or of this one), or all groups."""
    ranked = groups_of(store, dataset)
    shown = [group for groups in ranked.values() for group in (groups if everything else groups[:1])]
    others = [group for groups in ranked.values() for group in groups[len(groups) if everything else 1 :]]
    return Selection(tuple(shown), tuple(others), store.n_outdated())


def comparable_results(store: ResultStore, dataset: str | None = None) -> list[list[TrialResult]]:
    """Load the results of the main group of each dataset, or of this one."""
    return [list(group.results) for group in select(store, dataset).groups]


def groups_of(store: ResultStore, dataset: str | None = None) -> dict[str, list[Group]]:
    """Load the groups of each dataset, or of this one, by name; the main group comes first."""
    found: dict[str, dict[str, list[TrialResult]]] = defaultdict(lambda: defaultdict(list))
    for result in store.load():
        if dataset is None or result.dataset == dataset:
            found[result.dataset][comparison_key(result)].append(result)
    return {name: _ranked(name, found[name], store) for name in sorted(found)}


def with_remark(board: Leaderboard, group: Group) -> Leaderboard:
    """Return the table of a group with its remark, if it has one, as the first note."""
    return replace(board, notes=(group.remark, *board.notes)) if group.remark else board


def table_names(dataset: str, groups: Sequence[Group], own: Mapping[str, Json]) -> dict[str, str]:
    """Return the name of each group's table by key; no two are the same.

    The main group of the test part has that of the dataset, the main group of the validation part the same with
    ``-val``; others have the beginning of their key at the end.

    Args:
        dataset: name of the dataset.
        groups: its groups, ranked as by ``groups_of``.
        own: identity of a trial whose group is named as well, even if it has no result yet.
    """
    names: dict[str, str] = {}
    for key, part in [*((group.key, group.part) for group in groups), (settings_key(own), part_of(own))]:
        stem = dataset if part == TEST else f"{dataset}-{part}"
        names.setdefault(key, long_name(stem, key) if stem in names.values() else stem)
    return names


def short_key(key: str) -> str:
    """Return the beginning of a group's key, as in the names of its files."""
    return key[:_SHORT]


def long_name(name: str, key: str) -> str:
    """Return the name of a table with the beginning of its group's key, unless it has that already."""
    end = f"-{short_key(key)}"
    return name if name.endswith(end) else name + end


def _ranked(dataset: str, groups: Mapping[str, Sequence[TrialResult]], store: ResultStore) -> list[Group]:
    made = [
        Group(
            dataset=dataset,
            key=key,
            part=part_of(results[0].identity),
            results=tuple(results),
            latest=max(store.path(result.trial_id).stat().st_mtime for result in results),
        )
        for key, results in groups.items()
    ]
    made.sort(key=lambda one: (one.part != TEST, -len(one.results), -one.latest, one.key))
    return [_remarked(group, made[0]) for group in made]


def _remarked(group: Group, main: Group) -> Group:
    if group is not main:
        changed = ", ".join(_changes(_shared(main.results[0].identity), _shared(group.results[0].identity)))
        remark = f"{group.dataset}: {_trials(len(group.results))} with {changed}, unlike the main table"
    else:
        remark = "" if group.part == TEST else f"{group.dataset}: scored on the validation part, not on the test part"
    return replace(group, remark=remark)


def _trials(n: int) -> str:
    return f"{n} trial" if n == 1 else f"{n} trials"


def _shared(identity: Mapping[str, Json]) -> dict[str, Json]:
    return {key: value for key, value in identity.items() if key not in _MAY_DIFFER}


def _changes(before: Json, after: Json, name: str = "") -> Iterator[str]:
    """Yield ``key=value`` for each setting in ``after`` that is not as in ``before``; hashes are shortened."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            yield from _changes(before.get(key), after.get(key), f"{name}.{key}" if name else key)
    elif before != after:
        yield f"{name}={str(after)[:24]}"
