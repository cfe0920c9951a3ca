"""Nothing that a page tells a reader to type escapes the collection."""

from __future__ import annotations

import re

import pytest

from tests.docs import pages, rules
from tests.docs.pages import Command, File

PAGE = """\
Text with `$ not a command`.

```csv title="my/manifest.csv"
a,b
```

```console
$ make bench METHOD=x   # trains: exit code 3
left out: S08: ...
$ tissuebench  status
```

- in a list

    ```console
    $ make
    ```
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    return "page.md"


def test_steps_are_files_and_commands_in_their_order(page):
    file, bench, status, listed = pages.steps(page)
    assert file == File("my/manifest.csv", "a,b\n")
    assert bench == Command("page.md", 8, "make bench METHOD=x   # trains: exit code 3", ("left out: S08: ...",))
    assert (bench.typed, bench.exit_code) == ("make bench METHOD=x", 3)
    assert (status.typed, status.exit_code, status.line) == ("tissuebench status", 0, 10)
    assert listed.typed == "make"


def test_output_without_a_command_and_an_open_block_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    (tmp_path / "page.md").write_text("```console\nout\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:2"):
        pages.steps("page.md")
    with pytest.raises(AssertionError, match="never closed"):
        pages.blocks("```console\n$ make\n")


@pytest.mark.parametrize("name", pages.page_names())
def test_every_prompt_of_a_page_is_collected(name):
    prompts = re.findall(r"^\s*\$ \S.*$", pages.source(name), re.MULTILINE)
    assert len(prompts) == len(pages.commands(name))


def test_other_shells_are_not_used_to_hide_commands():
    for name in pages.page_names():
        kinds = {info.split(" ")[0] for _, info, _ in pages.blocks(pages.source(name))}
        assert kinds <= {"console", "python", "yaml", "csv", "toml", "groovy"}, name


def test_lines_that_train_are_made_small_and_keep_what_they_say():
    small = rules.Small("/tiny", "/plan.yaml")
    assert rules.trains("make bench METHOD=mine")
    assert rules.trains("WANDB_MODE=offline make bench METHOD=mine")
    assert rules.trains("tissuebench run --dry-run")
    assert not rules.trains("tissuebench results table")
    assert not rules.trains("make leaderboard")
    assert (
        small.options("make bench", "inline") == " DATASET=folder DATA_ROOT='/tiny' PLAN='/plan.yaml' EXECUTOR=inline"
    )
    assert small.options("make bench DATASET=folder DATA_ROOT=mine") == " PLAN='/plan.yaml'"
    assert small.options("tissuebench plan show", "inline").split() == [
        *("--dataset", "folder", "--data-root", "'/tiny'", "--plan", "'/plan.yaml'")
    ]
    assert rules.cluster("make bench EXECUTOR=slurm") == "slurm"
    assert rules.with_trial("tissuebench trial show 3f9a", "0123") == "tissuebench trial show 0123"
