"""The options that say what is compared and where it runs, for all commands that read a plan."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tissuebench.cli.common import listed
from tissuebench.errors import TissueBenchError

if TYPE_CHECKING:
    from tissuebench.run import BenchRequest


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and what replaces parts of it."""

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    data_roots: tuple[str, ...]
    plan: str
    overrides: tuple[str, ...]

    def request(self, home: Path, retry_failed: bool = False) -> BenchRequest:
        """What the main job is asked for.

        Raises:
            TissueBenchError: a data root that belongs to no dataset.
        """
        from tissuebench.run import BenchRequest

        roots: dict[str, Path] = {}
        for given in self.data_roots:
            name, separator, path = given.partition("=")
            if separator and name in self.datasets:
                roots[name] = Path(path)
            elif len(self.datasets) == 1:
                roots[self.datasets[0]] = Path(given)
            else:
                raise TissueBenchError(
                    f"--data-root {given!r}: say DATASET=FOLDER, with one of the datasets of --dataset"
                )
        return BenchRequest(self.methods, self.plan, home, self.datasets, roots, self.overrides, retry_failed)


_OPTIONS = (
    click.option("--method", "methods", multiple=True, help="Several times, or as a,b; default: the plan's."),
    click.option("--dataset", "datasets", multiple=True, help="See 'tissuebench data list'; default: the plan's."),
    click.option(
        "--data-root", "data_roots", multiple=True, metavar="FOLDER",
        help="The dataset's source files; DATASET=FOLDER where there are several datasets.",
    ),
    click.option("--plan", "plan", default="smoke", show_default=True, help="A plan that ships, or a YAML file."),
    click.option("--budget", "budgets", multiple=True, help="Replaces the plan's: masks:3p, masks:25%, masks:all."),
    click.option("--seed", "seeds", multiple=True, help="Replaces the plan's seeds."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replaces one key of the plan."),
    click.option("--executor", default=None, help="local (default), slurm, ray or inline: where tasks run."),
    click.option("--gpus", multiple=True, help="Ids of the GPUs to use; default: all there are."),
    click.option("--slots", type=int, default=None, help="Tasks at once on this machine; default: one a GPU, or core."),
)  # fmt: skip


def PLAN_OPTIONS(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a plan; it gets them as one argument, ``planned``."""

    @functools.wraps(command)
    def with_plan(
        methods: tuple[str, ...],
        datasets: tuple[str, ...],
        data_roots: tuple[str, ...],
        plan: str,
        budgets: tuple[str, ...],
        seeds: tuple[str, ...],
        overrides: tuple[str, ...],
        executor: str | None,
        gpus: tuple[str, ...],
        slots: int | None,
        **others: object,
    ) -> object:
        replaced = [
            *overrides,
            *_axis("budgets", budgets, "--budget"),
            *_axis("seeds", seeds, "--seed"),
            *_axis("compute.gpus", gpus, "--gpus"),
        ]
        if executor is not None:
            replaced.append(f"compute.executor={json.dumps(executor)}")
        if slots is not None:
            replaced.append(f"compute.slots={slots}")
        planned = Planned(listed(methods), listed(datasets), data_roots, plan, tuple(replaced))
        return command(planned=planned, **others)

    for option in reversed(_OPTIONS):
        with_plan = option(with_plan)
    return with_plan


def _axis(key: str, values: tuple[str, ...], option: str) -> tuple[str, ...]:
    given = listed(values)
    if key == "seeds" and not all(value.isdigit() for value in given):
        raise TissueBenchError(f"{option}: seeds are whole numbers, got {', '.join(given)}")
    quoted = ", ".join(value if value.isdigit() else json.dumps(value) for value in given)  # JSON is YAML
    return (f"{key}=[{quoted}]",) if given else ()
