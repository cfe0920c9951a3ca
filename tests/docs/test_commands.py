"""Every command on every page is typed, in order, in a checkout of its own."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from tests.docs import rules
from tests.docs.pages import ROOT, Command, File, commands, page_names, steps
from tests.docs.workspace import Workspace
from tissuebench.cli.main import cli
from tissuebench.errors import TissueBenchError

LONG = frozenset(
    {
        "README.md",
        "docs/adding_a_method.md",
        "docs/curves.md",
        "docs/index.md",
        "docs/machines.md",
        "docs/predict.md",
        "docs/slides.md",
        "docs/statistics.md",
        "docs/tutorial.md",
    }
    | {"docs/trouble.md", "docs/wandb.md", "docs/methods/complementary.md", "docs/methods/controls.md"}
    | {"docs/methods/index.md", "docs/methods/mean_teacher.md", "docs/methods/multilayer_pseudo.md"}
)
"""Pages that take more than half a minute: left to the slow tests. That their commands exist is a quick one."""


def mark(page: str):
    return pytest.param(page, marks=[pytest.mark.slow] if page in LONG else [], id=page)


PAGES = [mark(page) for page in page_names() if commands(page)]


def newest_trial(root: Path) -> str:
    """The beginning of the id of the trial that was written last."""
    found = sorted((root / "runs" / "results").glob("*.parquet"), key=lambda path: path.stat().st_mtime)
    assert found, "the page speaks of a trial before there is one"
    return found[-1].stem[:8]


def line_of(command: Command, small: rules.Small, root: Path, executor: str, settings: tuple[str, ...] = ()) -> str:
    """What is typed."""
    line = command.typed
    if rules.trains(line):
        said = rules.cluster(line) or ("EXECUTOR" in line or "--executor" in line)
        line += small.options(line, None if said else executor, settings)
    return rules.with_trial(line, newest_trial(root)) if "3f9a" in line else line


def assert_shown(command: Command, output: str) -> None:
    """What the page shows stands in the output, in order; ``...`` stands for anything."""
    at = 0
    for shown in command.shown:
        pattern = ".*".join(re.escape(part) for part in re.split(r"\.\.\.", shown.strip()))
        found = re.search(pattern, output[at:])
        assert found, f"{command}: the output has no {shown!r}:\n{output[-3000:]}"
        at += found.end()


def type_and_check(workspace: Workspace, command: Command, line: str) -> None:
    done = workspace.type(line)
    assert done.returncode == command.exit_code, (
        f"{command}\ntyped: {line}\nended with {done.returncode}:\n{done.stdout[-4000:]}"
    )
    if not rules.trains(command.typed):
        assert_shown(command, done.stdout)


def follow(page: str, workspace: Workspace, small: rules.Small, bring: Callable[[Path], None]) -> list[Command]:
    """Do what the page says; what was typed."""
    typed: list[Command] = []
    # Only a worker of its own leaves a log.
    executor = "local" if any("trial log" in command.typed for command in commands(page)) else "inline"
    for step in steps(page):
        if isinstance(step, File):
            workspace.write(step.path, step.text)
            if step.path.endswith("manifest.csv"):
                bring(workspace.root / step.path)
        elif step.typed not in rules.NOT_RUN and rules.cluster(step.typed) is None:
            type_and_check(workspace, step, line_of(step, small, workspace.root, executor))
            typed.append(step)
    return typed


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_does_what_the_page_says(page, workspace_of, small, bring_slides, request):
    environment = request.getfixturevalue("wandb_environment") if page == "docs/wandb.md" else {}
    typed = follow(page, workspace_of(environment), small, bring_slides)
    left_out = {str(command) for command in commands(page)} - {str(command) for command in typed}
    allowed = {str(c) for c in commands(page) if c.typed in rules.NOT_RUN or rules.cluster(c.typed)}
    assert left_out == allowed


def targets() -> set[str]:
    """Of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def wrong_with(line: str) -> str:
    """What keeps a line from being one that the command or the Makefile knows; empty if nothing does."""
    words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "make":
        unknown = set(words[1:]) - targets()
        return f"no target {sorted(unknown)}" if unknown else ""
    if words[0] != "tissuebench":
        return ""
    command: click.Command = cli
    context = click.Context(command, info_name="tissuebench")
    try:
        _, rest, _ = command.make_parser(context).parse_args(words[1:])
        while isinstance(command, click.Group) and rest:
            command = command.resolve_command(context, rest)[1] or command
            context = click.Context(command, parent=context, info_name=command.name)
            _, rest, _ = command.make_parser(context).parse_args(rest[1:])
    except (click.UsageError, TissueBenchError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", [page for page in page_names() if commands(page)])
def test_every_command_of_a_page_exists_with_its_options(page):
    assert {str(command): wrong for command in commands(page) if (wrong := wrong_with(command.typed))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "make report elsewhere",
        "tissuebench results tabel",
        "tissuebench results table --rank",
        "tissuebench predict --tria x",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line):
    assert wrong_with(line)


def test_what_is_not_run_stands_on_a_page_and_is_little():
    everywhere = {command.typed for page in page_names() for command in commands(page)}
    assert set(rules.NOT_RUN) <= everywhere
    assert all(reason for reason in rules.NOT_RUN.values())
    assert len(rules.NOT_RUN) <= 3


def on_clusters(name: str) -> list[Command]:
    return [command for page in page_names() for command in commands(page) if rules.cluster(command.typed) == name]


@pytest.mark.slow
@pytest.mark.parametrize("command", on_clusters("slurm"), ids=str)
def test_commands_for_slurm_run_on_a_real_one(command, workspace_of, small, request):
    cluster = request.getfixturevalue("slurm_of_the_pages")
    workspace = workspace_of(cluster.environment)
    settings = ("compute.slurm.partition=main", "compute.slurm.memory_gb=4")
    type_and_check(workspace, command, line_of(command, small, workspace.root, "slurm", settings))
    assert newest_trial(workspace.root)


@pytest.mark.slow
@pytest.mark.parametrize("command", on_clusters("ray"), ids=str)
def test_commands_for_ray_run_on_a_real_one(command, workspace_of, small, request):
    cluster = request.getfixturevalue("ray_of_the_pages")
    keys = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    workspace = workspace_of({**cluster.environment, **{key: os.environ[key] for key in keys}})
    settings = (f"compute.ray.address={cluster.address}",)
    type_and_check(workspace, command, line_of(command, small, workspace.root, "ray", settings))
    assert newest_trial(workspace.root)


def test_every_cluster_stands_on_a_page():
    assert all(on_clusters(name) for name in rules.CLUSTERS)


@pytest.mark.slow
def test_the_first_command_of_the_tutorial_that_trains_runs_as_it_is_written(workspace_of):
    """The embedded slides and the smoke plan: six minutes on two cores."""
    (bench, *_) = (c for c in commands("docs/tutorial.md") if c.typed.startswith("make bench"))
    workspace = workspace_of()
    workspace.environment.pop("OMP_NUM_THREADS")
    type_and_check(workspace, bench, bench.typed)
    table = workspace.type("tissuebench results table")
    assert "synthetic" in table.stdout
    assert "complementary" in table.stdout
