"""The ``tissuebench`` command: parses and calls. Heavy imports stay inside command bodies."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from tissuebench.cli.common import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    HOME,
    Commands,
)
from tissuebench.cli.data import data
from tissuebench.cli.perf import perf
from tissuebench.cli.plan_options import PLAN_OPTIONS, Planned
from tissuebench.cli.predict import predict
from tissuebench.cli.results import print_boards, results
from tissuebench.cli.sweep import plan, status, trial
from tissuebench.errors import TissueBenchError


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the trace of an expected failure.")
@click.version_option(package_name="tissuebench")
def cli(debug: bool) -> None:
    """Which weak-supervision strategy is worth a pathologist's time?

    \b
    tissuebench run --method complementary      compare it with its controls and print the table
    tissuebench results table                   the table again, from what is stored
    tissuebench method new NAME                 begin a method of your own, in one file
    """  # noqa: D301 - \b is click's mark for lines to be kept as they are


@cli.command()
@PLAN_OPTIONS
@click.option("--retry-failed", is_flag=True, help="Run tasks again that failed before.")
@click.option("--dry-run", is_flag=True, help="List the trials and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@HOME
def run(planned: Planned, retry_failed: bool, dry_run: bool, as_json: bool, home: Path) -> None:
    """Train and score what is not finished yet, then print the table.

    Interrupted or killed, the same command goes on where it was. Typed twice at once, the two share the work.
    """
    from tissuebench.run import bench, prepare, states_of_trials

    request = planned.request(home, retry_failed)
    if dry_run:
        for line in states_of_trials(prepare(request), home):
            click.echo(line)
        return
    outcome = bench(request)
    print_boards(outcome.boards, as_json)
    if outcome.summary.failed:
        raise SystemExit(EXIT_SOME_FAILED)


for command in (data, plan, status, trial, results, predict, perf):
    cli.add_command(command)


@cli.group(cls=Commands)
def method() -> None:
    """Methods: what is compared, and how to add one."""


@method.command("list")
def method_list() -> None:
    """Every method, in tree or from another package."""
    from tissuebench.methods.api.registry import all_methods

    for name, kind in all_methods().items():
        origin = "" if kind.__module__.startswith("tissuebench.") else f"  ({kind.__module__})"
        click.echo(f"{name:16} {kind.summary}{origin}")


@method.command()
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("methods"), show_default=True)
def new(name: str, folder: Path) -> None:
    """Write a method to begin with: one file, nothing else to edit."""
    from tissuebench.cli.scaffold import write_method

    click.echo(f"{write_method(name, folder)}: change its loss, then 'tissuebench method check {name}'")


@method.command()
@click.argument("name")
def check(name: str) -> None:
    """Run the contract tests on method NAME."""
    from tissuebench.cli.scaffold import check_method

    raise SystemExit(check_method(name))


def main() -> None:
    """Run the command; expected failures become one line and exit code 2."""
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
        click.echo(f"tissuebench: {error.format_message()} ('{where} --help' shows what there is)", err=True)
        raise SystemExit(EXIT_BAD_INPUT) from None
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo(f"tissuebench: interrupted; {str(error) or 'the same command goes on where it was'}", err=True)
        raise SystemExit(EXIT_INTERRUPTED) from None
