"""Trainings that are given in epochs: steps follow from the tiles of each budget, and budgets stay comparable."""

from __future__ import annotations

import math

import pytest

from tissuebench.results.tables.comparable import settings_key
from tissuebench.sweep.graph import build_graph, stages_of
from tissuebench.sweep.jobs import TaskKind

BUDGETS = {"masks:1p": 1, "masks:2p": 2, "masks:3p": 3}


def planned(bench, method, *overrides):
    plan = bench.plan("seeds=[0]", f"budgets={list(BUDGETS)}", *overrides)
    return {trial.budget.spec: trial for trial in bench.trials(plan, method)}


@pytest.mark.parametrize("batch", [4, 5, 64])
def test_epochs_of_a_plan_are_other_steps_at_each_budget(bench, batch):
    found = planned(bench, "supervised", "training.epochs=3", f"training.batch_size={batch}")
    for spec, trial in found.items():
        n = 6 * BUDGETS[spec]  # each patient has an image of six tiles
        assert trial.n_tiles == {"masks": n}
        assert trial.training.steps == 3 * math.ceil(n / batch)
    if batch == 4:
        assert len({trial.training.steps for trial in found.values()}) == 3
    assert len({trial.id for trial in found.values()}) == 3
    assert len({settings_key(trial.identity()) for trial in found.values()}) == 1  # one table
    again = [type(trial).of_document(trial.document()) for trial in found.values()]
    assert {trial.training.steps for trial in again} == {trial.training.steps for trial in found.values()}


def test_stages_count_the_tiles_that_they_learn_from(bench):
    found = planned(bench, "diffusion_published", "methods.diffusion_published.width=8")
    (n_tissue,) = {trial.n_tiles["none"] for trial in found.values()}
    for trial in found.values():
        (stage,) = stages_of(trial)
        assert stage.training.steps == 100 * max(1, n_tissue // 8)  # drop_last
        assert trial.training.steps == 150 * max(1, trial.n_tiles["masks"] // 8)
    graph = build_graph(list(found.values()), bench.data, bench.home)
    assert len(graph.of_kind(TaskKind.STAGE)) == 1  # without labels: shared by all budgets
    assert {task.steps for task in graph.of_kind(TaskKind.TRIAL)} == {t.training.steps for t in found.values()}


def test_a_recipe_stands_in_the_table_of_the_plan_that_runs_it(bench):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", "methods.diffusion_published.width=8")
    trials = bench.trials(plan, "supervised", "diffusion_published")
    assert {trial.method for trial in trials} == {"supervised", "diffusion_published"}
    assert len({settings_key(trial.identity()) for trial in trials}) == 1
    assert len({trial.training.steps for trial in trials}) == 2
