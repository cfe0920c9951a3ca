"""No page names a command, an option, a target, a variable, a plan or a key of a plan that does not exist."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from tests.docs.pages import ROOT, blocks, commands, page_names, source
from tissuebench.cli.main import cli
from tissuebench.common.own_settings import Own
from tissuebench.datasets.catalog import find_recipe
from tissuebench.datasets.labels.budget_spec import parse_spec
from tissuebench.methods.api.registry import all_methods, find_method
from tissuebench.plans.grid import variants_of
from tissuebench.plans.schema import load_plan, plan_names

_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_MAKEFILE = (ROOT / "Makefile").read_text()
_TARGETS = set(re.findall(r"^([a-z][a-z-]*):.*##", _MAKEFILE, re.MULTILINE))
_VARIABLES = set(re.findall(r"\$[({](?:or \$\()?([A-Z_]+)", _MAKEFILE)) | {"NAME"}
_KEY = re.compile(r"^(?:evaluation|training|network|augmentation|compute|methods)\.[a-z0-9_.]+(?:=.*)?$")
_PAGES = page_names()


def code_of(page: str) -> list[str]:
    """Spans of code in the text, wrapped ones too, and the commands but for those that show a mistake."""
    text = source(page)
    lines = text.splitlines()
    for first, _, inside in blocks(text):
        for number in range(first - 2, first + len(inside)):
            lines[number] = ""
    paragraphs = "\n".join(lines).split("\n\n")
    spans = [span for paragraph in paragraphs for span in _CODE.findall(" ".join(paragraph.split()))]
    return [*spans, *(command.typed for command in commands(page) if command.exit_code == 0)]


def words(span: str) -> list[str]:
    try:
        return shlex.split(span)
    except ValueError:
        return span.split()


def resolved(typed: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words begin with, and the words after it."""
    command: click.Command = cli
    while isinstance(command, click.Group):
        while typed and typed[0].startswith("-"):
            assert typed[0] in options_of(command), f"{typed[0]} is no option of tissuebench"
            typed = typed[1:]
        if not typed:
            break
        assert typed[0] in command.commands, f"tissuebench has no command {typed[0]!r}"
        command, typed = command.commands[typed[0]], typed[1:]
    return command, typed


def options_of(command: click.Command) -> set[str]:
    return {"--help", "-h", *(name for parameter in command.params for name in parameter.opts)}


def every_option(command: click.Command = cli) -> set[str]:
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return options_of(command).union(*(every_option(each) for each in below))


@pytest.mark.parametrize("page", _PAGES)
def test_commands_and_options_of_tissuebench_exist(page):
    for span in code_of(page):
        typed = [word for word in words(span) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
        if typed[:1] == ["tissuebench"]:
            command, rest = resolved(typed[1:])
            known = options_of(command)
            strange = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in known]
            assert not strange, f"{page}: `{span}`"
        elif span.startswith("--"):
            assert typed[0].partition("=")[0] in every_option(), f"{page}: `{span}`"


@pytest.mark.parametrize("page", _PAGES)
def test_targets_and_variables_of_make_exist(page):
    for span in code_of(page):
        typed = words(span)
        while typed and re.fullmatch(r"WANDB_[A-Z]+=\S*", typed[0]):
            typed = typed[1:]
        named = [word.partition("=")[0] for word in typed if re.fullmatch(r"[A-Z_]+=.*", word)]
        if typed[:1] == ["make"]:
            targets = [word for word in typed[1:] if "=" not in word]
            assert set(targets) <= _TARGETS, f"{page}: `{span}`"
            assert set(named) <= _VARIABLES, f"{page}: `{span}`"
        elif typed and len(named) == len(typed):
            assert set(named) <= _VARIABLES | {"WANDB_MODE"}, f"{page}: `{span}`"


def keys_of(page: str) -> list[str]:
    """KEY=VALUE pairs, and keys alone, that stand on a page."""
    found = []
    for span in code_of(page):
        for word in words(span):
            given = word.partition("=")[2].split() if word.startswith("SET=") else [word]
            found += [one for one in given if _KEY.match(one) and "..." not in one]
    return found


@pytest.mark.parametrize("page", [page for page in _PAGES if keys_of(page)])
def test_keys_of_plans_exist_and_take_the_values(page):
    for key in keys_of(page):
        name, given, _ = key.partition("=")
        first, _, rest = name.partition(".")
        if first == "methods":
            method, setting, *own = rest.split(".")
            if method in ("NAME", "mine"):
                continue
            fields = find_method(method).Config.model_fields
            assert setting in fields, f"{page}: {key}"
            for mark in (one for one in fields[setting].metadata if own and isinstance(one, Own)):
                assert own[0] in mark.model.model_fields, f"{page}: {key}"
            plan = load_plan("smoke", (key,) if given else ())
            variants_of(plan, method)
            continue
        section = getattr(load_plan("smoke"), first)
        for part in rest.split(".")[:-1]:
            section = getattr(section, part)
        assert rest.rpartition(".")[2] in type(section).model_fields, f"{page}: {key}"
        if given:
            load_plan("smoke", (key,))


@pytest.mark.parametrize("page", _PAGES)
def test_plans_methods_data_sets_and_budgets_exist(page):
    methods = {*all_methods(), "mine"}
    for span in code_of(page):
        for word in words(span):
            name, given, value = word.partition("=")
            if not given or "..." in value or value in ("NAME", "my.yaml"):
                continue
            if name == "METHOD":
                assert set(value.split(",")) <= methods, f"{page}: `{span}`"
            elif name == "PLAN":
                assert value in plan_names(), f"{page}: `{span}`"
            elif name == "DATASET" and value.partition("@")[0] not in ("folder", "pairs", "mine"):
                find_recipe(value)
            elif name == "BUDGETS":
                for budget in value.split(","):
                    parse_spec(budget)
        if re.fullmatch(r"(masks|tags|minutes):\S+", span) and not span.endswith(":"):
            parse_spec(span)


def test_the_tests_would_notice():
    assert "lint" in _TARGETS
    assert "METHOD" in _VARIABLES
    with pytest.raises(AssertionError):
        resolved(["results", "tabel"])
    assert "--nope" not in every_option()
