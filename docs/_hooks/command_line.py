"""Generate the page of the command line from ``tissuebench --help`` when the site is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
from mkdocs.structure.files import File

from tissuebench.cli.main import cli

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_WIDTH = 96
_HEAD = """# Command line

The help of each command. Results go to standard output, progress and notes to standard error. Exit codes: 0 success,
1 a bug in TissueBench (or a method that breaks the contract, or something to fix that `doctor` found), 2 bad input,
3 some trials failed, 130 interrupted; see [Troubleshooting](../trouble.md#exit-codes).
"""


def commands(command: click.Command, path: tuple[str, ...] = ("tissuebench",)) -> Iterator[tuple[str, click.Context]]:
    """Yield the command and all its subcommands in the order of the help, each with its context."""
    context = click.Context(command, info_name=" ".join(path), terminal_width=_WIDTH, max_content_width=_WIDTH)
    yield " ".join(path), context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from commands(command.commands[name], (*path, name))


def on_files(files: Files, config: MkDocsConfig, **_: object) -> Files:
    """Add the page."""
    parts = [_HEAD]
    for name, context in commands(cli):
        level = "##" if name.count(" ") < 2 else "###"
        parts.append(f"{level} `{name}`\n\n```text\n{context.get_help()}\n```\n")
    files.append(File.generated(config, "reference/command_line.md", content="\n".join(parts)))
    return files
