"""``tissuebench results best``: the best variant of a method on the validation part, and its run on the test part."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tissuebench.cli.common import AS_JSON, EXISTING_HOME, Command, at_home, example, stdout
from tissuebench.common.hashing import is_sha256
from tissuebench.errors import DataError, TissueBenchError

if TYPE_CHECKING:
    from tissuebench.results.records.trial_result import TrialResult
    from tissuebench.results.tables.best_variant import VariantRow
    from tissuebench.results.tables.comparable import Group
    from tissuebench.sweep.state.record import SweepRecord

_VALIDATION = "val"


@click.command(cls=Command, epilog=example("tissuebench results best --part val"))
@click.option(
    "--part",
    type=click.Choice(["val", "test"]),
    default=_VALIDATION,
    show_default=True,
    help="Part that decides; test is refused.",
)
@click.option("--dataset", default=None, help="Only this dataset.")
@AS_JSON
@EXISTING_HOME
def best(part: str, dataset: str | None, as_json: bool, home: Path) -> None:
    """Choose the best variant of each method at each budget by its mIoU on the validation part.

    Variants come from a grid, as in --set methods.complementary.gamma=[0,1,2] --set evaluation.part=val. The last lines
    are what to type to run the chosen ones on the test part.
    """
    from tissuebench.results.records.result_store import ResultStore
    from tissuebench.results.render.best_variant import render_variants
    from tissuebench.results.tables.best_variant import variant_rows
    from tissuebench.results.tables.comparable import groups_of, results_folder
    from tissuebench.sweep.state.record import all_sweeps

    if part != _VALIDATION:
        raise TissueBenchError(
            "--part test: the best of several variants on the test patients owes part of its score to these patients; "
            "choose on the validation part, then run the chosen variant on the test part"
        )
    store = ResultStore(results_folder(home))
    rows: list[VariantRow] = []
    commands: list[str] = []
    notes: list[str] = []
    for name, groups in groups_of(store, dataset).items():
        validated = [group for group in groups if group.part == part]
        if not validated:
            continue
        group = validated[0]
        ids = {result.trial_id for result in group.results}
        sweeps = [sweep for sweep in all_sweeps(home) if ids & sweep.trials]
        planned = {key for sweep in sweeps for key in sweep.trials}
        failures = [failure for failure in store.read_failures() if failure.trial_id in planned]
        of_group = variant_rows(group.results, failures)
        unfinished = len(planned) - sum(map(store.has, planned)) - len(failures)
        if of_group and unfinished:
            notes.append(f"{name}: planned trials without a result yet: {unfinished}; the choice may change")
        if len(validated) > 1:
            n = sum(len(other.results) for other in validated[1:])
            notes.append(f"{name}: validated trials under other settings, left out: {n}")
        rows += of_group
        commands += _commands(of_group, group, sweeps, home)
    if not rows:
        of_dataset = f" of dataset {dataset!r}" if dataset else ""
        raise DataError(
            f"no method{of_dataset} has several variants scored on the validation part; run a grid first: tissuebench "
            "run --method complementary --set methods.complementary.gamma=[0,1,2] --set evaluation.part=val"
        )
    for note in notes:
        click.echo(note, err=True)
    if as_json:
        click.echo(json.dumps({"variants": [asdict(row) for row in rows], "commands": commands}, allow_nan=False))
        return
    console = stdout()
    render_variants(rows, console)
    if commands:
        console.print("\nThe best of several scores is too high: report the chosen variant on the test part:")
        for command in commands:
            click.echo(command)


def _commands(rows: Sequence[VariantRow], group: Group, sweeps: Sequence[SweepRecord], home: Path) -> list[str]:
    """Return one line per chosen variant, for all budgets at which it was chosen."""
    chosen: dict[str, list[VariantRow]] = {}
    for row in rows:
        if row.chosen:
            chosen.setdefault(row.variant, []).append(row)
    lines = []
    for variant, at_budgets in chosen.items():
        compared = {row.variant for row in rows if row.method == at_budgets[0].method}
        trained = [result for result in group.results if result.method == variant]
        configs = [_config(result) for result in group.results if result.method in compared]
        ids = {result.trial_id for result in trained}
        request = next((sweep.request for sweep in sweeps if sweep.request and ids & sweep.trials), ())
        own = {
            f"methods.{at_budgets[0].method}.{key}": value
            for key, value in _config(trained[0]).items()
            if any(config.get(key) != value for config in configs) and not is_sha256(value)  # a file, not its hash
        }
        budgets = ",".join(row.budget for row in at_budgets)
        words = [
            "tissuebench",
            "run",
            "--method",
            at_budgets[0].method,
            "--dataset",
            group.dataset,
            "--budget",
            budgets,
        ]
        words += _kept(request, {*own, "budgets", "evaluation.part"})
        words += [word for key, value in own.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        words += ["--set", "evaluation.part=test"]
        lines.append(shlex.join(words) + at_home(home))
    return lines


def _kept(request: Sequence[str], replaced: set[str]) -> list[str]:
    """Return the plan and the settings of an earlier run, but for the settings that are replaced."""
    pairs = zip(request[::2], request[1::2], strict=True)
    kept = [
        (option, value)
        for option, value in pairs
        if option == "--plan" or (option == "--set" and value.partition("=")[0] not in replaced)
    ]
    return [word for pair in kept for word in pair]


def _config(result: TrialResult) -> dict[str, object]:
    config = result.identity.get("config")
    return dict(config) if isinstance(config, dict) else {}
