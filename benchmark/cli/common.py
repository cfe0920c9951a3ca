"""Shared parts of the command line: exit codes, common options, help pages in sections, suggestions."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tissuebench.common.home import default_home, existing_home, existing_or_new_home
from tissuebench.errors import TissueBenchError

if TYPE_CHECKING:
    from rich.console import Console

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_OTHER = "Other options"

EXIT_BAD_INPUT, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 2, 3, 130


class Command(click.Command):
    """A command whose options stand in sections of its help."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section under its title, those without one at the end."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(vars(parameter).get("section", _OTHER), []).append(record)
        for title in sorted(sections, key=lambda title: title == _OTHER):
            with formatter.section(title if len(sections) > 1 else "Options"):
                formatter.write_dl(sections[title])


class Commands(click.Group):
    """A group that lists its commands in sections and suggests the nearest one for a typing error."""

    command_class = Command

    def add(self, section: str, *commands: click.Command) -> None:
        """Add commands under a title of the help."""
        for command in commands:
            vars(command)["section"] = section
            self.add_command(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command named first among ``args``.

        Raises:
            TissueBenchError: no such command; suggests the nearest.
        """
        from tissuebench.errors import unknown_name

        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise TissueBenchError(unknown_name("command", args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return names in the order of definition."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section under its title."""
        width = formatter.width - 6 - max(map(len, self.commands))
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            record = (name, command.get_short_help_str(width))
            sections.setdefault(vars(command).get("section", "Commands"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def example(line: str) -> str:
    """Return the end of a help page: an example of one command line, which is not wrapped."""
    return f"\b\nExample:\n  {line}"


def section(title: str, *options: Decorator) -> Decorator:
    """Put options under a title in the help of a command."""

    def under_title(command: Callable[..., Any]) -> Callable[..., Any]:
        before = len(getattr(command, "__click_params__", ()))
        for option in reversed(options):
            command = option(command)
        for parameter in getattr(command, "__click_params__", ())[before:]:
            vars(parameter)["section"] = title
        return command

    return under_title


def _home(checked: Callable[[Path, str], Path]) -> Decorator:
    return click.option(
        "--home",
        type=click.Path(file_okay=False, path_type=Path),
        default=default_home,
        show_default="$TISSUEBENCH_HOME, else the current folder",
        help="Folder that holds data/ and runs/.",
        callback=lambda context, parameter, home: checked(home, "--home"),
    )


HOME = _home(existing_or_new_home)
"""For commands that write data or results: the folder is made with the first of them, if the one above it exists."""
EXISTING_HOME = _home(existing_home)
"""For commands that read: a mistyped folder is refused."""


def say_if_new(home: Path) -> None:
    """Tell that the home folder does not exist yet: what was mistyped is noticed before hours of work."""
    if not home.is_dir():
        click.echo(f"--home {home}: no such folder yet; this command makes it", err=True)


def at_home(home: Path) -> str:
    """Return the option that names this home folder, with a blank before it; empty for the default one."""
    return "" if home == default_home() else f" --home {shlex.quote(str(home))}"


def next_step(what: str) -> None:
    """Print what to do next on standard error, as the last line of a command that ended well."""
    click.echo(f"Next: {what}", err=True)


def steps_after_ingest(dataset: str, n_diagnoses: int, budgets: Sequence[str], home: Path) -> str:
    """Return what to type once a dataset is ingested.

    Args:
        dataset: its name.
        n_diagnoses: number of its diagnoses; a method of diagnoses is proposed only where some differ.
        budgets: budgets to name; none if those of the default plan fit.
        home: folder of the run.
    """
    method = "complementary" if n_diagnoses > 1 else "mean_teacher"
    where = f"{shlex.quote(dataset)}{at_home(home)}"
    budget = f" --budget {','.join(budgets)}" if budgets else ""
    return f"tissuebench data inspect {where}, then tissuebench run --method {method}{budget} --dataset {where}"


AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
DATASET = click.option(
    "--dataset", default="synthetic", show_default=True, help="Name of a dataset; 'tissuebench data list' lists them."
)
DATA_ROOT = click.option(
    "--data-root", type=click.Path(path_type=Path), default=None, help="Folder with the dataset's source files."
)


def listed(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values of an option that may be repeated or given as a,b."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def stderr() -> Console:
    """Return the console for progress and notes."""
    from tissuebench.common.progress import stderr_console

    return stderr_console()


def stdout(record: bool = False) -> Console:
    """Return the console for results, 120 columns wide unless it is a terminal; ``record`` allows exports."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False, record=record)
