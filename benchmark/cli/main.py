"""Entry point of the ``tissuebench`` command. Heavy imports stay inside command bodies."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tissuebench.cli.cache import cache
from tissuebench.cli.common import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    HOME,
    Command,
    Commands,
    at_home,
    example,
    next_step,
    say_if_new,
    section,
)
from tissuebench.cli.data import data
from tissuebench.cli.doctor import doctor
from tissuebench.cli.encoders import encoders
from tissuebench.cli.perf import perf
from tissuebench.cli.plan_options import PLAN_OPTIONS, Planned
from tissuebench.cli.predict import predict
from tissuebench.cli.results import print_boards, results
from tissuebench.cli.sweep import plan, status, trial
from tissuebench.errors import TissueBenchError

if TYPE_CHECKING:
    from tissuebench.bench import BenchResult


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the traceback of an expected failure.")
@click.version_option(package_name="tissuebench")
def cli(debug: bool) -> None:
    """Find out which weak-supervision strategy is worth a pathologist's time.

    \b
    tissuebench run --method complementary      compare a method with its controls, print the leaderboard
    tissuebench results table                   print the leaderboard again from stored results
    tissuebench data init FOLDER                start with slides of your own
    tissuebench method new NAME                 start a method of your own, in one file
    """  # noqa: D301 - \b is click's mark for lines to be kept as they are


@click.command(
    cls=Command,
    short_help="Train and evaluate trials, then print the leaderboard.",
    epilog=example("tissuebench run --method complementary --budget masks:3p,minutes:60 --seed 0,1,2"),
)
@PLAN_OPTIONS
@section(
    "Execution",
    click.option("--retry-failed", is_flag=True, help="Run failed tasks again."),
    click.option("--dry-run", is_flag=True, help="List the trials; nothing is run or written."),
)
@click.option("--json", "as_json", is_flag=True, help="Print the leaderboard as JSON.")
@HOME
def run(planned: Planned, retry_failed: bool, dry_run: bool, as_json: bool, home: Path) -> None:
    """Train and evaluate all unfinished trials, then print the leaderboard.

    After an interruption or a crash the same command picks up where it left off. Two identical commands that run at
    the same time share the work.
    """
    from tissuebench.bench import bench, states_of_trials
    from tissuebench.preview import preview

    request = planned.request(home, retry_failed)
    if dry_run:
        seen = preview(request)
        for line in (*(states_of_trials(seen.sweep, home) if seen.sweep else ()), *seen.lines):
            click.echo(line)
        return
    say_if_new(home)
    outcome = bench(request)
    print_boards(outcome.boards, as_json)
    if outcome.summary.failed:
        next_step(f"tissuebench trial list{at_home(home)}, then tissuebench trial show ID{at_home(home)}")
        raise SystemExit(EXIT_SOME_FAILED)
    next_step(_after_run(outcome, planned.methods, home))


def _after_run(outcome: BenchResult, methods: Sequence[str], home: Path) -> str:
    """Return what to type after a run: the report, and a prediction by the first method that was asked for."""
    from tissuebench.results.tables.trial_list import is_of_method

    steps = f"tissuebench results report{at_home(home)}"
    scored = [row for board in outcome.boards for row in board.rows if row.mean is not None]
    asked = [row for row in scored if methods and is_of_method(row.method, methods[0])] or scored
    if not asked:
        return steps
    chosen = asked[-1]
    options = f"--method {shlex.quote(chosen.method)} --budget {chosen.budget} --dataset {shlex.quote(chosen.dataset)}"
    return f"{steps}, then tissuebench predict SLIDE {options}{at_home(home)}"


@click.group(cls=Commands, epilog=example("tissuebench method new entropy_minimisation"))
def method() -> None:
    """List methods, start a new one, check it against the contract."""


@method.command("list", epilog=example("tissuebench method list"))
def method_list() -> None:
    """List all methods, those of installed plug-ins included."""
    from tissuebench.methods.api.registry import all_methods

    methods = all_methods()
    width = max(map(len, methods)) + 1
    for name, kind in methods.items():
        origin = "" if kind.__module__.startswith("tissuebench.") else f"  ({kind.__module__})"
        click.echo(f"{name:{width}} {kind.summary}{origin}")


@method.command(epilog=example("tissuebench method new entropy_minimisation"))
@click.argument("name")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("methods"),
    show_default=True,
    help="Existing folder to write NAME.py into.",
)
def new(name: str, folder: Path) -> None:
    """Write a working method to start from; nothing else needs editing."""
    from tissuebench.cli.scaffold import write_method

    click.echo(f"{write_method(name, folder)}: edit its loss, then run 'tissuebench method check {name}'")


@method.command(epilog=example("tissuebench method check complementary"))
@click.argument("name")
def check(name: str) -> None:
    """Run the contract tests on method NAME."""
    from tissuebench.cli.scaffold import check_method

    raise SystemExit(check_method(name))


cli.add("Run experiments", run, plan, status, trial, cache)
cli.add("Prepare data", data)
cli.add("Use results", results, predict)
cli.add("Extend and measure", method, encoders, perf)
cli.add("Get help", doctor)


def main() -> None:
    """Run the command line; expected failures print one line and exit with code 2."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        code = cli.main(prog_name="tissuebench", standalone_mode=False)
        raise SystemExit(code if isinstance(code, int) else 0)
    except TissueBenchError as error:
        if "--debug" in sys.argv[:2]:
            raise
        click.echo(f"tissuebench: {' '.join(str(error).split())}", err=True)
        raise SystemExit(EXIT_BAD_INPUT) from None
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        raise SystemExit(0) from None
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "tissuebench"
        click.echo(f"tissuebench: {error.format_message()} (see '{where} --help')", err=True)
        raise SystemExit(EXIT_BAD_INPUT) from None
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo(
            f"tissuebench: interrupted; {str(error) or 'run the same command again to pick up where it left off'}",
            err=True,
        )
        raise SystemExit(EXIT_INTERRUPTED) from None
