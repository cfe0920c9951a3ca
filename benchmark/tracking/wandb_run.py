"""One run of W&B: how it is opened, and its curves, line by line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import wandb

from tissuebench.sweep.view.lookup import Found, curves_of
from tissuebench.tracking.about import About

_TAG_CHARACTERS, _GROUP_CHARACTERS = 64, 128  # W&B's limits; a method with many changed settings has a long name


def open_run(about: About, project: str, folder: Path, seconds: float | None = None) -> wandb.Run:
    """Open a run; what the server has under this id is then written again from the first line.

    Args:
        about: its metadata.
        project: W&B project.
        folder: folder in which W&B makes ``wandb/``.
        seconds: how long the server may take to open it, and to receive its end; None if it is written offline.

    Raises:
        wandb.errors.Error: the server does not answer, or refuses it.
    """
    settings = wandb.Settings(
        console="off",
        silent=True,
        x_disable_stats=True,
        x_disable_meta=True,
        disable_git=True,
        save_code=False,
    )
    if seconds is not None:
        settings.init_timeout = settings.finish_timeout = seconds
        settings.finish_timeout_raises = True
    return wandb.init(
        project=project,
        dir=folder,
        id=about.run_id,
        name=about.name,
        group=about.group[:_GROUP_CHARACTERS],
        job_type=about.job_type,
        tags=[tag[:_TAG_CHARACTERS] for tag in about.tags],
        config=dict(about.config),
        mode="offline" if seconds is None else "online",
        reinit="create_new",
        settings=settings,
    )


@dataclass(frozen=True, slots=True)
class Line:
    """Values logged at one step.

    Attributes:
        step: finished steps of the trial, those of its earlier stages included.
        values: values by name, and under ``axis`` the step of the stage.
        axis: name of the x axis of these values.
    """

    step: int
    values: dict[str, float]
    axis: str


def lines_of(found: Found) -> list[Line]:
    """Return the curves of a trial as lines: those of its stages under the stage's name, then its own.

    Stages are complete when their trial starts, so that the same line has the same place in the run, also while the
    trial trains.

    Raises:
        DataError: the trial's job, or a file of curves, is damaged.
    """
    lines: list[Line] = []
    for stage, curves in curves_of(found).items():
        before = lines[-1].step if lines else 0
        prefix, axis = (f"{stage}/", f"{stage}/step") if stage else ("", "train/step")
        at: dict[int, dict[str, float]] = {}
        for name, points in curves.items():
            for step, value in points:
                at.setdefault(step, {})[prefix + name] = value
        lines += [Line(before + step, {**at[step], axis: step}, axis) for step in sorted(at)]
    return lines


class CurveLog:
    """Curves of one run, each line of which is logged once.

    The last line is open until the next one or the end of the run: a validation may add to it.
    """

    def __init__(self, run: wandb.Run) -> None:
        self._run = run
        self._last = -1
        self._defined: set[str] = set()

    def add(self, lines: Sequence[Line]) -> None:
        """Log the lines that are new, and the last one again."""
        for line in lines:
            if line.step < self._last:
                continue
            self._last = line.step
            for name in line.values.keys() - self._defined:
                self._define(name, line.axis)
            self._run.log(line.values, step=line.step, commit=False)

    def _define(self, name: str, axis: str) -> None:
        self._defined.add(name)
        if name == axis:
            self._run.define_metric(axis, hidden=True, summary="none")
        elif "*" not in name:  # W&B takes it for a pattern
            self._run.define_metric(name, step_metric=axis)
