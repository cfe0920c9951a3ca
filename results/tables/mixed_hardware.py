"""Notes on results of one table that were trained in several precisions, or on several kinds of device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tissuebench.results.records.trial_result import TrialResult

_KINDS = {
    "precision": "trained in {}: scores differ in more than their last bits",
    "device": "trained on {}: no result is reproduced to the bit on another kind of device",
}


def notes_of_precision(results: Sequence[TrialResult]) -> list[str]:
    """Return a line for each dataset and each of precision and device of which there are several; else none.

    Earlier stages count, as a trial may use those of another machine. Results that do not name a value are left out.
    """
    notes = []
    for dataset in sorted({result.dataset for result in results}):
        of_dataset = [result for result in results if result.dataset == dataset]
        for name, text in _KINDS.items():
            found = sorted({value for result in of_dataset for value in _values(result.environment, name)})
            if len(found) > 1:
                notes.append(f"{dataset}: {text.format(' and '.join(found))}")
    return notes


def _values(environment: Mapping[str, Any], name: str) -> list[str]:
    """Return the values of the last stage and of all stages before it."""
    stages = [environment, *environment.get("earlier_stages", {}).values()]
    return [str(stage[name]) for stage in stages if stage.get(name) is not None]
