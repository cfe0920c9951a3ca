"""What the groups of the command line share: exit codes, options, and commands that suggest the nearest name."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tissuebench.errors import TissueBenchError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_BAD_INPUT, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 2, 3, 130

HOME = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=lambda: Path(os.environ.get("TISSUEBENCH_HOME", ".")),
    show_default="TISSUEBENCH_HOME or here",
    help="Folder that holds data/ and runs/.",
)
DATASET = click.option("--dataset", default="synthetic", show_default=True, help="See 'tissuebench data list'.")
DATA_ROOT = click.option(
    "--data-root", type=click.Path(path_type=Path), default=None, help="Folder with the dataset's source files."
)


class Commands(click.Group):
    """A group that suggests the nearest command for a mistyped one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command named first among ``args``."""
        from tissuebench.errors import unknown_name

        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise TissueBenchError(unknown_name("command", args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were written."""
        return list(self.commands)


def listed(values: tuple[str, ...]) -> tuple[str, ...]:
    """The values of an option that may be given several times or as a,b."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def stderr() -> Console:
    """Where progress and notes go."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def stdout(record: bool = False) -> Console:
    """Where what was asked for goes; of a fixed width where nobody looks at it. ``record`` for export."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False, record=record)
