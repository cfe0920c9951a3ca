"""From a plan to its trials: methods with their controls x budgets x draws x seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tissuebench.config import Plan, validated
from tissuebench.datasets.budgets import persisted_budget
from tissuebench.datasets.ingest import dataset_folder
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store import TileStore
from tissuebench.datasets.types import Supervision
from tissuebench.errors import ConfigError, unknown_name
from tissuebench.methods.registry import find_method
from tissuebench.trial import Trial


@dataclass(frozen=True, slots=True)
class PlannedData:
    """The dataset of a plan, opened."""

    store: TileStore
    split: Split


def with_controls(names: Sequence[str]) -> list[str]:
    """The methods asked for and the controls they need, controls first, each once.

    Raises:
        ConfigError: unknown method.
    """
    wanted: list[str] = []
    for name in names:
        for control in find_method(name).controls:
            if control not in wanted and control != "full":
                wanted.append(control)
    wanted += [name for name in names if name not in wanted]
    if "full" not in wanted and any("full" in find_method(name).controls for name in names):
        wanted.append("full")
    return wanted


def expand(plan: Plan, methods: Sequence[str], data: PlannedData, home: Path) -> list[Trial]:
    """All trials of a plan, in the order they are run: seed by seed, so that a first table is there early.

    Raises:
        ConfigError: unknown method or setting, or a budget that cannot be bought.
    """
    names = with_controls(methods)
    for name in plan.methods:
        find_method(name)
    configs = {
        name: validated(find_method(name).Config, plan.methods.get(name, {}), f"plan: methods.{name}") for name in names
    }
    folder = dataset_folder(home, data.store.info.dataset) / "budgets"
    trials: dict[str, Trial] = {}
    for seed in plan.seeds:
        for replicate in (seed,) if plan.replicates == "per_seed" else plan.replicates:
            for name in names:
                fixed = find_method(name).fixed_budget
                for spec in (fixed,) if fixed else plan.budgets:
                    budget = persisted_budget(folder, data.store, data.split, spec, replicate)
                    minutes = budget.minutes + _diagnosis_minutes(name, data)
                    trial = Trial.of_plan(
                        plan,
                        data.store.info.dataset,
                        data.store.content_hash,
                        data.split.sha256,
                        budget,
                        name,
                        configs[name],
                        seed,
                        minutes,
                    )
                    trials[trial.id] = trial
    return list(trials.values())


def _diagnosis_minutes(method: str, data: PlannedData) -> float:
    if Supervision.DIAGNOSIS not in find_method(method).consumes:
        return 0.0
    return data.store.info.costs.diagnosis_minutes_per_case * len(data.split.patients("train"))


def check_part(data: PlannedData, part: str) -> None:
    """Raise ``ConfigError`` unless the split has patients in ``part``."""
    if not data.split.patients(part):
        filled = [name for name in ("train", "val", "test") if data.split.patients(name)]
        raise ConfigError(f"evaluation.part: {unknown_name('part', part, filled)} (it has no patients)")
