"""Selection of comparable results: those that differ only in method, budget, draw and seed. Never imports torch."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tissuebench.common.hashing import content_hash
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import TrialResult

_MAY_DIFFER = ("method", "config", "budget", "seed")


def results_folder(home: Path) -> Path:
    """Return the folder of finished trials."""
    return home / "runs" / "results"


def comparison_key(result: TrialResult) -> str:
    """Return a hash of everything that must be equal for two results to be comparable."""
    return content_hash({key: value for key, value in result.identity.items() if key not in _MAY_DIFFER})


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
