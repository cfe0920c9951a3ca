"""``tissuebench doctor``: examines this machine."""

from __future__ import annotations

from pathlib import Path

import click

from tissuebench.cli.common import AS_JSON, Command, example
from tissuebench.common.home import default_home

_COLOURS = {"ok": "green", "note": "yellow", "fix": "red"}
_EXIT_SOMETHING_TO_FIX = 1


@click.command(
    cls=Command,
    short_help="Examine this machine; for a bug report, too.",
    epilog=example("tissuebench doctor --home runs_of_mine"),
)
@AS_JSON
@click.option(
    "--home",
    type=Path,  # not click's: it asks the file system, which may hang
    metavar="DIRECTORY",
    default=default_home,
    show_default="$TISSUEBENCH_HOME, else the current folder",
    help="Folder that holds, or will hold, data/ and runs/.",
)
def doctor(as_json: bool, home: Path) -> None:
    """Examine this machine: Python, packages, GPUs, cores, disk, network, weights.

    Each line says ok, note (worth knowing) or fix, and what to do. It takes a few seconds and changes nothing; a part
    that hangs costs its own lines only. Attach the output to a bug report: names of people and machines, and keys, are
    left out. The exit code is 1 if there is something to fix.
    """
    import json
    from dataclasses import asdict

    from tissuebench.doctor.examine import examine
    from tissuebench.doctor.finding import State

    findings = []
    for finding in examine(home):
        findings.append(finding)
        if not as_json:
            click.echo(f"{click.style(f'{finding.state:4}', _COLOURS[finding.state])}  {finding.name}: {finding.found}")
            if finding.advice:
                click.echo(f"      -> {finding.advice}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    if any(finding.state is State.FIX for finding in findings):
        raise SystemExit(_EXIT_SOMETHING_TO_FIX)
