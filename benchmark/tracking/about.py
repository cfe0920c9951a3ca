"""Metadata of a run in W&B, as plain values that travel between processes; never imports wandb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tissuebench import __version__
from tissuebench.common.hashing import Json
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.comparable import settings_key

if TYPE_CHECKING:  # seconds of imports that reading results does not need
    from tissuebench.plans.trial import Trial


@dataclass(frozen=True, slots=True)
class About:
    """Metadata of a run; a trial that trains, has failed or has finished gets the same."""

    run_id: str
    name: str
    group: str
    job_type: str
    tags: Sequence[str]
    config: Mapping[str, Json]


def comparison_of(identity: Mapping[str, Json]) -> str:
    """Return the value that the runs of comparable trials share in their config as ``comparison``."""
    return settings_key(identity)[:16]


def about_trial(trial: Trial) -> About:
    """Return the metadata of a trial that trains or has failed."""
    budget = trial.budget
    return _about(
        trial.id,
        trial.identity(),
        __version__,
        dataset=trial.dataset,
        method=trial.arm,
        budget=budget.spec,
        minutes=trial.minutes,
        replicate=budget.replicate,
        seed=trial.seed,
    )


def about_result(result: TrialResult) -> About:
    """Return the metadata of a finished trial."""
    packages = result.environment.get("packages")
    version = packages.get("tissuebench") if isinstance(packages, Mapping) else None
    return _about(
        result.trial_id,
        result.identity,
        str(version or __version__),
        dataset=result.dataset,
        method=result.method,
        budget=result.budget,
        minutes=result.minutes,
        replicate=result.replicate,
        seed=result.seed,
    )


def _about(
    trial_id: str,
    identity: Mapping[str, Json],
    version: str,
    *,
    dataset: str,
    method: str,
    budget: str,
    minutes: float,
    replicate: int,
    seed: int,
) -> About:
    tags = [f"tissuebench {version}", dataset, method, budget]
    if "protocol" in identity:
        tags.append(f"protocol {identity['protocol']}")
    return About(
        trial_id,
        name=f"{method} {budget} r{replicate} s{seed}",
        group=f"{dataset}/{method}/{budget}",
        job_type="train",
        tags=tags,
        config={
            **identity,
            "comparison": comparison_of(identity),
            "dataset": dataset,
            "method": method,  # with its changed settings, which keeps variants apart when grouping runs
            "budget": budget,
            "minutes": minutes,
            "replicate": replicate,
            "seed": seed,
        },
    )
