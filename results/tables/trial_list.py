"""List of the trials of a home that finished or failed, with their mIoU."""

from __future__ import annotations

from dataclasses import dataclass

from tissuebench.results.metrics import miou
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import TrialResult, method_of, part_of


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial that ended.

    Attributes:
        method: method variant, as in a table.
        state: ``done`` or ``failed``.
        part: part of the split that was scored; None if it failed.
        miou: mean IoU over the classes of the truth, pooled over all slides; None if it failed.
    """

    trial: str
    dataset: str
    method: str
    budget: str
    replicate: int
    seed: int
    state: str
    part: str | None
    miou: float | None


def trial_rows(
    store: ResultStore, dataset: str | None = None, method: str | None = None, budget: str | None = None
) -> list[TrialRow]:
    """Return the trials that ended, sorted by dataset, method, budget, part, draw and seed.

    Args:
        store: the results; those of an earlier protocol are left out.
        dataset: only trials on this dataset.
        method: only trials of this method, or of this variant of it, see ``is_of_method``.
        budget: only trials with this budget.

    Raises:
        DataError: a file is damaged.
    """
    rows = [_finished(result) for result in store.load()]
    rows += [
        TrialRow(one.trial_id, one.dataset, one.method, one.budget, one.replicate, one.seed, "failed", None, None)
        for one in store.read_failures()
    ]
    chosen = [
        row
        for row in rows
        if dataset in (None, row.dataset)
        and (method is None or is_of_method(row.method, method))
        and budget in (None, row.budget)
    ]
    return sorted(
        chosen,
        key=lambda row: (row.dataset, row.method, row.budget, row.part or "", row.replicate, row.seed, row.trial),
    )


def is_of_method(variant: str, name: str) -> bool:
    """Whether a method variant is meant by a name: that of the method, or that of the variant in full.

    Examples:
        >>> is_of_method("mean_teacher[decay=0.95]", "mean_teacher"), is_of_method("full", "mean_teacher")
        (True, False)
    """
    return name in (variant, method_of(variant))


def _finished(result: TrialResult) -> TrialRow:
    return TrialRow(
        result.trial_id,
        result.dataset,
        result.method,
        result.budget,
        result.replicate,
        result.seed,
        "done",
        part_of(result.identity),
        round(float(miou(result.counts.sum(0))), 6),
    )
