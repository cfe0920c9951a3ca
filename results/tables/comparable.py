"""Selection of comparable results: those that differ only in method, budget, draw and seed. Never imports torch."""

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
    """A label budget, reduced to the name that tables show."""

    @property
    def spec(self) -> str:
        """Specification, for example ``masks:3p``."""
        ...


class PlannedTrial(Protocol):
    """A trial that a plan asks for; it appears as a gap in the table while it has no result."""

    @property
    def id(self) -> str:
        """Content hash of the trial."""
        ...

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        ...

    @property
    def arm(self) -> str:
        """Name of the method variant: the method, with the settings that distinguish it."""
        ...

    @property
    def budget(self) -> NamedBudget:
        """Budget of labels that the trial may use."""
        ...

    @property
    def minutes(self) -> float:
        """Annotation cost of the budget in minutes."""
        ...


def results_folder(home: Path) -> Path:
    """Return the folder of finished trials."""
    return home / "runs" / "results"


def comparison_key(result: TrialResult) -> str:
    """Return a hash of everything that must be equal for two results to be comparable."""
    return content_hash({key: value for key, value in result.identity.items() if key not in _MAY_DIFFER})


def board_of_trials(store: ResultStore, trials: Sequence[PlannedTrial]) -> Leaderboard:
    """Build the leaderboard of one plan, gaps included."""
    counted = Counter((trial.dataset, trial.arm, trial.budget.spec) for trial in trials)
    minutes = {(trial.dataset, trial.arm, trial.budget.spec): trial.minutes for trial in trials}
    expected = [CellKey(*key, n_trials=count, minutes=minutes[key]) for key, count in counted.items()]
    ids = {trial.id for trial in trials}
    failures = [failure for failure in store.read_failures() if failure.trial_id in ids]
    return build(store.load(ids), expected=expected, failures=failures)


def comparable_results(
    store: ResultStore, dataset: str | None = None, everything: bool = False
) -> list[list[TrialResult]]:
    """Load comparable results in groups: for each dataset the most recently extended group, or all groups."""
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
