"""Which results may stand in one table: they differ in method, budget, draw and seed only. Never imports torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tissuebench.common.hashing import content_hash
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.leaderboard import CellKey, Leaderboard, build

_MAY_DIFFER = ("method", "config", "budget", "seed")


class NamedBudget(Protocol):
    """A budget of labels, as far as a table names it."""

    @property
    def spec(self) -> str:
        """For example ``masks:3p``."""
        ...


class PlannedTrial(Protocol):
    """A trial that a plan asks for, with or without a result: a gap of the table if it has none."""

    @property
    def id(self) -> str:
        """Content hash."""
        ...

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        ...

    @property
    def arm(self) -> str:
        """Name of the method, with the settings that tell it from others."""
        ...

    @property
    def budget(self) -> NamedBudget:
        """The labels that it may use."""
        ...

    @property
    def minutes(self) -> float:
        """What these cost an annotator."""
        ...


def results_folder(home: Path) -> Path:
    """Where finished trials stand."""
    return home / "runs" / "results"


def comparison_key(result: TrialResult) -> str:
    """Hash of everything that must be equal for two results to be compared."""
    return content_hash({key: value for key, value in result.identity.items() if key not in _MAY_DIFFER})


def board_of_trials(store: ResultStore, trials: Sequence[PlannedTrial]) -> Leaderboard:
    """The table of one plan, gaps included."""
    counted = Counter((trial.dataset, trial.arm, trial.budget.spec) for trial in trials)
    minutes = {(trial.dataset, trial.arm, trial.budget.spec): trial.minutes for trial in trials}
    expected = [CellKey(*key, n_trials=count, minutes=minutes[key]) for key, count in counted.items()]
    ids = {trial.id for trial in trials}
    failures = [failure for failure in store.read_failures() if failure.trial_id in ids]
    return build(store.load(ids), expected=expected, failures=failures)


def comparable_results(
    store: ResultStore, dataset: str | None = None, everything: bool = False
) -> list[list[TrialResult]]:
    """Stored results that may be compared: for each dataset the group that was added to last, or all groups."""
    groups: dict[tuple[str, str], list[TrialResult]] = defaultdict(list)
    for result in store.load():
        if dataset is None or result.dataset == dataset:
            groups[result.dataset, comparison_key(result)].append(result)

    def newest(results: list[TrialResult]) -> float:
        return max(store.path(result.trial_id).stat().st_mtime for result in results)

    ordered = sorted(groups.items(), key=lambda item: (item[0][0], -newest(item[1])))
    chosen: dict[str, list[list[TrialResult]]] = defaultdict(list)
    for (name, _), results in ordered:
        if everything or not chosen[name]:
            chosen[name].append(results)
    return [results for groups_of_dataset in chosen.values() for results in groups_of_dataset]
