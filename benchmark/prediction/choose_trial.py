"""Choice of the trial that predicts, by method and budget; no score of the test part has a say in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tissuebench.common.hashing import Json, canonical_json
from tissuebench.errors import ConfigError
from tissuebench.results.metrics import miou
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import TrialResult, part_of
from tissuebench.results.tables.comparable import groups_of, results_folder
from tissuebench.results.tables.trial_list import is_of_method
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.folders import task_folder
from tissuebench.training.checkpoints import FITTED

_VALIDATION = "val"
_SHOWN_AT_MOST = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """The trial that was chosen, and why, in one line."""

    trial: str
    reason: str


def choose_trial(home: Path, method: str, budget: str, dataset: str | None = None) -> Choice:
    """Choose among the finished trials of a method at a budget that still have their weights.

    Candidates are those of the dataset's main table, or, if it has none of them, of its next one. If the same trainings
    were also scored on the validation part (a run with ``evaluation.part=val``), the best mIoU there decides;
    otherwise the first draw, and of it the first seed, is taken.

    Args:
        home: folder with ``runs/``.
        method: a method, or one of its variants in full, as in a table.
        budget: as in a plan.
        dataset: name of the dataset; None if only one has such trials.

    Raises:
        ConfigError: no such trial, or the names fit several datasets or variants.
        DataError: a result is damaged.
    """
    found: dict[str, list[TrialResult]] = {}
    everything: list[TrialResult] = []
    for name, groups in groups_of(ResultStore(results_folder(home)), dataset).items():
        everything += [result for group in groups for result in group.results]
        fitting = [[one for one in group.results if _fits(one, method, budget)] for group in groups]
        if first := next(filter(None, fitting), None):
            found[name] = first
    if not found:
        raise ConfigError(_nothing(home, method, budget, dataset, everything))
    if len(found) > 1:
        raise ConfigError(f"{method} at {budget} finished on several datasets: give --dataset {' or '.join(found)}")
    (candidates,) = found.values()
    variants = sorted({one.method for one in candidates})
    if method in variants:
        candidates = [one for one in candidates if one.method == method]
    elif len(variants) > 1:
        raise ConfigError(f"method {method!r} has several variants here: give one of {', '.join(variants)} in full")
    kept = [one for one in candidates if (task_folder(home, TaskKind.TRIAL, one.trial_id) / FITTED).is_file()]
    if not kept:
        raise ConfigError(
            f"the {len(candidates)} finished trials of {method} at {budget} have no weights in {home / 'runs'}; run "
            "their plan again"
        )
    return _best(kept, everything)


def _fits(result: TrialResult, method: str, budget: str) -> bool:
    return result.budget == budget and is_of_method(result.method, method)


def _best(kept: Sequence[TrialResult], everything: Sequence[TrialResult]) -> Choice:
    validated = {
        _training(one): float(miou(one.counts.sum(0))) for one in everything if part_of(one.identity) == _VALIDATION
    }
    scores = {one.trial_id: validated[_training(one)] for one in kept if _training(one) in validated}
    first = min(kept, key=lambda one: (-scores.get(one.trial_id, -1.0), one.replicate, one.seed, one.trial_id))
    named = f"{first.method} {first.budget} on {first.dataset}, draw {first.replicate}, seed {first.seed}"
    if len(kept) == 1:
        why = "the only one that finished"
    elif scores:
        others = f"{len(scores)} of {len(kept)}" if len(scores) < len(kept) else str(len(kept))
        why = f"the best of {others} on validation patients (mIoU {scores[first.trial_id]:.3f})"
    else:
        why = f"the first of {len(kept)}; none was scored on validation patients"
    return Choice(first.trial_id, f"trial {first.trial_id[:8]} ({named}): {why}")


def _training(result: TrialResult) -> str:
    """Return what determines the weights: the identity without the part that was scored."""
    evaluation = cast("Mapping[str, Json]", result.identity.get("evaluation") or {})
    return canonical_json({**result.identity, "evaluation": {**evaluation, "part": None}})


def _nothing(home: Path, method: str, budget: str, dataset: str | None, everything: Sequence[TrialResult]) -> str:
    cells = sorted({(one.dataset, one.method, one.budget) for one in everything})
    on = f" on {dataset}" if dataset else ""
    line = f"no trial of {method} at {budget}{on} has finished in {home / 'runs'}"
    if not cells:
        return f"{line}, nor any other{on}: train it with 'tissuebench run --method {method} --budget {budget}'"
    shown = ", ".join(f"{name} {spec} ({where})" for where, name, spec in cells[:_SHOWN_AT_MOST])
    more = f" and {len(cells) - _SHOWN_AT_MOST} more" if len(cells) > _SHOWN_AT_MOST else ""
    return f"{line}; finished are {shown}{more}: see 'tissuebench trial list'"
