"""Hardware settings of one task: those of this machine, the plan's precision, and what the task's stage allows."""

from __future__ import annotations

from typing import Any

from tissuebench.common.hashing import Json
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.api.stage import Stage, Trainable
from tissuebench.plans.compute import Precision
from tissuebench.plans.trial import Trial
from tissuebench.runtime.determinism import is_deterministic
from tissuebench.runtime.environment import describe_device
from tissuebench.runtime.machine import Machine, detect_machine
from tissuebench.runtime.processes import World
from tissuebench.sweep.graph import stages_of
from tissuebench.sweep.jobs import Job, TaskKind


def machine_of(job: Job, trial: Trial, world: World) -> Machine:
    """Return the settings for a task; features, which methods share, are never computed in float16.

    Raises:
        ConfigError: a precision that the GPU does not have.
    """
    wanted = Precision(str(job.document.get("precision", Precision.AUTO)))
    allows_float16 = False
    if job.kind is not TaskKind.FEATURES:
        kind: type[Trainable[Any]] = find_method(trial.method)
        config = trial.config
        if job.kind is TaskKind.STAGE:
            kind, config = (stage := stage_of(job, trial)).module, stage.config
        allows_float16 = kind.allows_float16(config)
    network = trial.network
    return detect_machine(network.encoder_mode, world, wanted, allows_float16)


def stage_of(job: Job, trial: Trial) -> Stage:
    """Return the stage that a task of the kind ``stage`` trains."""
    return next(stage for stage in stages_of(trial) if stage.name == job.document["stage"])


def describe_hardware(trial: Trial, machine: Machine, world: World) -> dict[str, Json]:
    """Return what decides the last bits of a task's result, for its record."""
    return {
        "precision": machine.precision,
        "device": describe_device(machine.device),
        "deterministic": is_deterministic(trial.training.deterministic, machine.device),
        "processes": world.size,
    }
