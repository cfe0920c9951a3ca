"""Preview of a run: what it would do, and no trace of it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from tissuebench.cli.main import cli


def typed(*arguments, code=0):
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout


def traces(home):
    return sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*"))


SMOKE = 3 * (2 + 2 + 2) + 3  # supervised and complementary in masks:3p, masks:6p and minutes:60; full once a seed


def test_in_a_fresh_home_nothing_is_drawn(tmp_path):
    fresh = tmp_path / "new"  # not there yet
    for command in (("run", "--method", "complementary", "--dry-run"), ("plan", "show", "--method", "complementary")):
        said = typed(*command, "--home", fresh)
        assert said.startswith("synthetic: its slides would be drawn and ingested first; its trials, as far as ")
        assert "3 trials of complementary masks:6p: to run" in said
        assert "3 trials of full masks:all: to run" in said
    assert list(tmp_path.iterdir()) == []


def test_as_json(tmp_path):
    rows = json.loads(typed("plan", "show", "--method", "complementary", "--home", tmp_path, "--json"))["trials"]
    assert sum(row["trials"] for row in rows) == SMOKE
    assert {row["dataset"] for row in rows} == {"synthetic"} and all(row["finished"] == 0 for row in rows)


def test_draws_of_a_plan_are_counted(tmp_path):
    drawn = ("--set", "replicates=[0,1]", "--seed", "0,1,2", "--budget", "masks:3p")
    said = typed("run", "--method", "supervised,full", "--dry-run", "--home", tmp_path, *drawn)
    assert "6 trials of supervised masks:3p: to run" in said
    assert "3 trials of full masks:all: to run" in said


@pytest.mark.parametrize(
    ("method", "setting", "says"),
    [
        (
            "diffusion_published",
            "training.nesterov=true",
            "methods.diffusion_published.training: nesterov has no effect",
        ),
        ("diffusion", "pretraining.momentum=0.9", "methods.diffusion.pretraining: momentum has no effect"),
        (
            "diffusion",
            "pretraining_augmentation.blur_from=3",
            "stage 'pretrain': augmentation: blur_from (3) is larger",
        ),
    ],
)
def test_a_stage_that_contradicts_itself_is_told_before_any_data_is_made(tmp_path, method, setting, says):
    options = ["run", "--method", method, "--set", f"methods.{method}.{setting}", "--dry-run", "--home", str(tmp_path)]
    done = CliRunner().invoke(cli, options)
    assert done.exit_code != 0 and str(done.exception).startswith(says)
    assert list(tmp_path.iterdir()) == []


def test_of_ones_own_slides_the_manifest_is_read(tiny_source, tmp_path):
    where = ("--dataset", "folder", "--data-root", tiny_source, "--home", tmp_path)
    said = typed("run", "--method", "supervised", "--dry-run", *where)
    assert said.startswith("tiny: 12 slides would be ingested first; ")
    done = CliRunner().invoke(cli, ["run", "--method", "x", "--dry-run", *map(str, where)])
    assert "unknown method 'x'" in str(done.exception)
    done = CliRunner().invoke(cli, ["run", "--method", "supervised", "--dry-run", "--dataset", "ebhi"])
    assert "not ingested yet" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_on_ingested_data_budgets_are_drawn_and_not_written(bench):
    before = traces(bench.home)
    shown = typed(*bench.options("--method", "complementary", "--dry-run"))
    assert shown.count(": to run") == 2 * (2 + 2 + 1)
    assert traces(bench.home) == before
    (plan,) = json.loads(f"[{typed('plan', 'show', *bench.options('--method', 'complementary')[1:], '--json')}]")
    assert sum(row["trials"] for row in plan["trials"]) == 10
    assert traces(bench.home) == before


def test_a_budget_that_does_not_fit_names_some_that_do(bench):
    done = CliRunner().invoke(cli, bench.options("--method", "supervised", "--budget", "masks:9p,tags:3p,minutes:60"))
    assert "budget 'masks:9p' asks for 9 patients, the training part has 7 patients with masks; " in str(done.exception)
    fitting = "masks:3p,masks:7p,minutes:60"
    assert str(done.exception).endswith(f"budgets that fit: --budget {fitting} (with make: BUDGETS={fitting})")
    assert typed(*bench.options("--method", "supervised", "--budget", fitting, "--dry-run"))
    assert not (bench.home / "runs").exists()


@pytest.mark.parametrize("command", [("results", "table"), ("status",), ("trial", "list"), ("data", "inspect", "x")])
def test_a_mistyped_home_is_refused_by_what_reads(command, tmp_path):
    done = CliRunner().invoke(cli, [*command, "--home", str(tmp_path / "hom")])
    assert str(done.exception) == f"--home {tmp_path / 'hom'}: no such folder; give the one that holds data/ and runs/"
    done = CliRunner().invoke(cli, ["predict", "a.svs", "--trial", "3f9a", "--home", str(tmp_path / "hom")])
    assert "no such folder" in str(done.exception)


def test_a_home_is_made_only_where_one_may_be_and_that_is_said(tiny_source, tmp_path):
    ingest = ["data", "ingest", "folder", "--data-root", str(tiny_source), "--home"]
    done = CliRunner().invoke(cli, [*ingest, str(tmp_path / "a" / "b")])
    assert "neither this folder nor the one that it would be made in exists" in str(done.exception)
    done = CliRunner().invoke(cli, [*ingest, str(tmp_path / "new")])
    assert done.exit_code == 0
    assert done.stderr.splitlines()[0] == f"--home {tmp_path / 'new'}: no such folder yet; this command makes it"
    assert done.stderr.splitlines()[-1] == (
        f"Next: tissuebench data inspect tiny --home {tmp_path / 'new'}, then tissuebench run --method complementary "
        f"--dataset tiny --home {tmp_path / 'new'}"
    )
    assert "this command makes it" not in CliRunner().invoke(cli, [*ingest, str(tmp_path / "new")]).stderr
