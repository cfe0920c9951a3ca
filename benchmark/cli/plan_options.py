"""Options shared by all commands that read a plan: what to compare, and where to run it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tissuebench.cli.common import listed, section
from tissuebench.errors import TissueBenchError

if TYPE_CHECKING:
    from tissuebench.bench import BenchRequest


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan and the options that override parts of it."""

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    data_roots: tuple[str, ...]
    plan: str
    overrides: tuple[str, ...]

    def request(self, home: Path, retry_failed: bool = False) -> BenchRequest:
        """Build the request for ``tissuebench.bench.bench``.

        Raises:
            TissueBenchError: a data root belongs to no dataset.
        """
        from tissuebench.bench import BenchRequest

        roots: dict[str, Path] = {}
        for given in self.data_roots:
            name, separator, path = given.partition("=")
            if separator and name in self.datasets:
                roots[name] = Path(path)
            elif len(self.datasets) == 1:
                roots[self.datasets[0]] = Path(given)
            else:
                raise TissueBenchError(
                    f"--data-root {given!r}: write DATASET=FOLDER, where DATASET is one of those of --dataset"
                )
        return BenchRequest(self.methods, self.plan, home, self.datasets, roots, self.overrides, retry_failed)


_OPTIONS = (
    section(
        "Comparison",
        click.option("--method", "methods", multiple=True, help="Repeat or write a,b; default: the plan's methods."),
        click.option("--dataset", "datasets", multiple=True, help="Repeat or write a,b; default: the plan's datasets."),
        click.option(
            "--data-root", "data_roots", multiple=True, metavar="FOLDER",
            help="Source files of the dataset; DATASET=FOLDER if there are several datasets.",
        ),
        click.option("--plan", "plan", default="smoke", show_default=True, help="A built-in plan, or a YAML file."),
        click.option("--budget", "budgets", multiple=True, help="Replace the plan's: masks:3p, masks:25%, minutes:60."),
        click.option("--seed", "seeds", multiple=True, help="Replace the plan's seeds."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace one key of the plan."),
    ),
    section(
        "Execution",
        click.option("--executor", default=None, help="local (default), slurm, ray or inline."),
        click.option("--gpus", multiple=True, help="Ids of the GPUs to use; default: all."),
        click.option(
            "--slots", type=int, default=None,
            help="Tasks that run at once on this machine; default: one per GPU, else per core.",
        ),
        click.option("--tracking", multiple=True, help="Where curves go: wandb (default), tensorboard, or none."),
    ),
)  # fmt: skip


def PLAN_OPTIONS(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a plan to a command, which receives them as one argument ``planned``."""

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
        tracking: tuple[str, ...],
        **others: object,
    ) -> object:
        replaced = [
            *overrides,
            *_axis("budgets", budgets, "--budget"),
            *_axis("seeds", seeds, "--seed"),
            *_axis("compute.gpus", gpus, "--gpus"),
            *(("tracking=[]",) if listed(tracking) == ("none",) else _axis("tracking", tracking, "--tracking")),
        ]
        if executor is not None:
            replaced.append(f"compute.executor={json.dumps(executor)}")
        if slots is not None:
            replaced.append(f"compute.slots={slots}")
        planned = Planned(listed(methods), listed(datasets), data_roots, plan, tuple(replaced))
        return command(planned=planned, **others)

    decorated: Callable[..., Any] = with_plan
    for options in reversed(_OPTIONS):
        decorated = options(decorated)
    return decorated


def _axis(key: str, values: tuple[str, ...], option: str) -> tuple[str, ...]:
    given = listed(values)
    if key == "seeds" and not all(value.isdigit() for value in given):
        raise TissueBenchError(f"{option}: seeds are whole numbers, got {', '.join(given)}")
    quoted = ", ".join(value if value.isdigit() else json.dumps(value) for value in given)  # JSON is YAML
    return (f"{key}=[{quoted}]",) if given else ()
