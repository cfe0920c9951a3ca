"""``tissuebench plan show``: what would run, before anything runs; and the plans that ship."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from click.testing import CliRunner

from tests.benchmark.sweeps import ended_sweep, run_inline
from tissuebench.bench import BenchRequest, prepare
from tissuebench.cli.main import cli
from tissuebench.methods.api.registry import all_methods, register
from tissuebench.methods.api.stage import Stage
from tissuebench.methods.supervised import Supervised
from tissuebench.plans.expand import with_controls
from tissuebench.plans.schema import load_plan, plan_names
from tissuebench.sweep.estimate.overview import overview

FROZEN = ("network.encoder_mode=frozen", "network.encoder=tf_efficientnet_lite0", "network.weights=package")


class Pretext(Supervised):
    """A stage that needs no labels of the budget."""

    name = "pretext"
    summary = "not registered"


@register
class Staged(Supervised):
    name = "staged_in_a_test"
    summary = "has a stage before, which does not depend on the budget"

    @classmethod
    def stages(cls, config, training):
        return (Stage("pretext", Pretext, config, training.model_copy(update={"steps": 100})),)


def arguments(bench, *extra):
    given = [
        *("--dataset", "folder"),
        *("--data-root", bench.data_root),
        *("--home", bench.home),
        *("--plan", bench.plan_path),
    ]
    return ["plan", "show", *map(str, given), *extra]


def shown(bench, *extra):
    result = CliRunner().invoke(cli, arguments(bench, *extra))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_counts_what_is_shared_and_saved(bench):
    text = shown(bench, "--method", "staged_in_a_test", "--executor", "inline")
    said = json.loads(shown(bench, "--method", "staged_in_a_test", "--executor", "inline", "--json"))
    rows = {(row["method"], row["budget"]): row for row in said["trials"]}
    assert set(rows) == {
        ("supervised", "masks:2p"), ("supervised", "masks:3p"), ("full", "masks:all"),
        ("staged_in_a_test", "masks:2p"), ("staged_in_a_test", "masks:3p"),
    }  # fmt: skip
    assert all((row["trials"], row["to_run"], row["finished"], row["failed"]) == (2, 2, 0, 0) for row in rows.values())
    (shared,) = said["shared"]
    assert (shared["name"], shared["tasks"], shared["trials"]) == ("stage pretext", 2, 4)
    assert shared["methods"] == ["staged_in_a_test"]
    executed, independent = 10 * 6 + 2 * 100, 10 * 6 + 4 * 100
    assert said["steps"] == {
        "executed": executed, "independent": independent, "to_run": executed,
        "saved_percent": round(100 * (1 - executed / independent), 1),
    }  # fmt: skip
    kinds = Counter(task["kind"] for task in said["tasks"])
    assert kinds == {"stage": 2, "trial": 10}
    (stage,) = {need for task in said["tasks"] if "staged_in_a_test" in task["title"] for need in task["needs"]} & {
        task["key"] for task in said["tasks"] if task["title"] == "pretext seed 0"
    }
    assert len(stage) == len(said["tasks"][0]["key"])
    assert 0 < said["hours"]["low"] < said["hours"]["high"] < 1
    assert said["hours"]["slots"] == 1
    assert said["disk_bytes"]["weights"] > 0
    assert "260 instead of 460" in text
    assert "a few steps timed on random tiles" in text
    assert not (bench.home / "runs").exists()


def test_filters_and_what_is_finished_or_failed(bench):
    ended_sweep(bench)
    options = ("--method", "supervised,breaking_in_a_test", "--budget", "masks:2p", "--set", "training.steps=2")
    said = json.loads(shown(bench, *options, "--seed", "0", "--executor", "inline", "--json"))
    found = {row["method"]: (row["finished"], row["to_run"], row["failed"]) for row in said["trials"]}
    assert found == {"supervised": (1, 0, 0), "breaking_in_a_test": (0, 0, 1), "full": (0, 1, 0)}
    assert said["steps"]["to_run"] == 2
    said = json.loads(shown(bench, "--method", "supervised", *options[2:], "--seed", "0", "--json"))
    assert sum(row["trials"] for row in said["trials"]) == 2


def test_features_that_are_there_and_nothing_left(bench):
    request = BenchRequest(
        ("supervised",), str(bench.plan_path), bench.home, ("folder",), {"folder": bench.data_root},
        ("seeds=[0]", "budgets=['masks:2p']", "training.steps=2", 'compute.executor="inline"', *FROZEN),
    )  # fmt: skip
    sweep = prepare(request)
    before = overview(sweep, bench.home)
    assert before.estimate.disk.features > 0
    assert [(each.name, each.tasks, each.finished) for each in before.shared] == [
        ("features of training tiles by tf_efficientnet_lite0", 1, 0),
        ("features of windows by tf_efficientnet_lite0", 1, 0),
    ]
    disk = json.loads(before.to_json())["disk_bytes"]
    assert disk["features"] == 42 * 4 * (2 * 2944 + 1)  # values of the maps of a tile of 32 px
    assert disk["windows"] == 3 * 12 * (4 * 2944 + 1)
    options = [f"--set={override}" for override in request.overrides]
    said = " ".join(shown(bench, "--method", "supervised", *options).split())
    assert "disk: 989 kB of features of training tiles and at most 424 kB of those of windows, " in said
    run_inline(sweep.graph, bench.home)
    after = overview(sweep, bench.home)
    assert [each.finished for each in after.shared] == [1, 1]
    assert (after.steps_to_run, after.estimate.seconds, after.estimate.disk.features) == (0, 0.0, 0)
    assert "nothing left to run" in shown(bench, "--method", "supervised", *options)


@pytest.mark.parametrize("name", plan_names())
def test_every_plan_that_ships_names_methods_that_exist(name):
    plan = load_plan(name)
    assert set(plan.methods) <= set(all_methods())
    assert {"supervised", "full"} < set(with_controls(tuple(plan.methods)))


def test_the_plan_for_a_paper_crosses_seeds_and_draws():
    plan = load_plan("paper")
    assert len(plan.datasets) > 1
    assert len(plan.seeds) == 5
    assert len(plan.replicates) == 3
    assert any(budget.startswith("minutes:") for budget in plan.budgets)
    assert plan.training.steps > load_plan("standard").training.steps > load_plan("smoke").training.steps
