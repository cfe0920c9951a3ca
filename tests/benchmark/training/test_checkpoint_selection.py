"""Choosing a checkpoint: on patients that were bought, never on others, and the same after an interruption."""

from __future__ import annotations

import math

import pytest
import torch

from tissuebench.common.hashing import derive_seed
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.datamodule import TileDataModule
from tissuebench.errors import ConfigError, WithheldLabelError
from tissuebench.methods.api.registry import find_method
from tissuebench.runtime.machine import detect_machine
from tissuebench.runtime.processes import ALONE
from tissuebench.training.build import task_of, validation_of
from tissuebench.training.checkpoint_selection import KeepBest, held_out_patients
from tissuebench.training.fit import Interrupted, fit, seed_everything

SHARE = ("training.selection_share=0.34", "training.selection_every=2", "budgets=['masks:3p']", "seeds=[0]")


@pytest.fixture
def trial(bench):
    (trial,) = bench.trials(bench.plan(*SHARE), "supervised")
    return trial


def test_the_default_chooses_nothing(bench):
    (plain,) = bench.trials(bench.plan("budgets=['masks:3p']", "seeds=[0]"), "supervised")
    assert plain.training.selection_share == 0
    assert held_out_patients(plain.budget, 0) == ()


def test_who_chooses_is_paid_for_and_not_trained_on(bench, trial):
    (chosen,) = held_out_patients(trial.budget, trial.training.selection_share)
    assert chosen == trial.budget.patients[2]
    (plain,) = bench.trials(bench.plan("budgets=['masks:3p']", "seeds=[0]"), "supervised")
    assert trial.minutes == plain.minutes  # of the same three patients
    assert trial.id != plain.id
    held_out = held_out_patients(trial.budget, trial.training.selection_share)
    kinds = find_method(trial.method).consumes
    view = LabelView.for_training(bench.data.store, bench.data.split, trial.budget, kinds, held_out)
    assert {slide.patient_id for slide in view.mask_slides} == set(trial.budget.patients) - {chosen}


def test_a_budget_too_small_to_hold_out_anybody(bench):
    (trial,) = bench.trials(bench.plan(*SHARE, "budgets=['masks:2p']"), "supervised")
    with pytest.raises(ConfigError, match=r"holds out one in 3 patients .* 'masks:2p' bought 2 in full"):
        held_out_patients(trial.budget, trial.training.selection_share)


def test_only_bought_patients_may_choose(bench, trial):
    stranger = next(p for p in bench.data.split.patients("train") if p not in trial.budget.patients)
    with pytest.raises(WithheldLabelError, match="not bought"):
        LabelView.for_selection(bench.data.store, bench.data.split, trial.budget, [stranger])


def run(bench, trial, scores, folder, stop_at=None):
    """Fit with made-up scores, step by step; hands back what it took, the callback, weights on the way and at last."""
    seed_everything(derive_seed(trial.seed, "init"))
    method = find_method(trial.method)(task_of(bench.data, trial.network, trial.training), trial.config)
    held_out = held_out_patients(trial.budget, trial.training.selection_share)
    view = LabelView.for_training(bench.data.store, bench.data.split, trial.budget, method.consumes, held_out)
    steps = trial.training.steps
    datamodule = TileDataModule(bench.data.store, view, method.streams(), trial.seed, steps, trial.augmentation)
    machine, fitted = detect_machine(trial.network.encoder_mode), None
    snapshots = {}

    def score():
        step = method.trainer.global_step
        snapshots[step] = torch.cat([p.detach().flatten() for p in method.parameters()]).clone()
        return scores[step]

    def stop():
        return method.trainer.global_step == stop_at

    validation, keep = validation_of(trial, bench.data, machine, ALONE)[0], KeepBest(score)
    folder.mkdir(exist_ok=True)
    options = {"validation": validation, "keep_best": keep, "stop": stop}
    try:
        fitted = fit(method, datamodule, folder, trial.seed, machine, lambda step: None, **options)
    except Interrupted:
        assert stop_at
    return fitted, keep, snapshots, torch.cat([p.detach().flatten() for p in method.parameters()])


@pytest.mark.parametrize(
    ("scores", "best"),
    [({2: 0.1, 4: 0.9, 6: 0.3}, 4), ({2: 0.5, 4: 0.5, 6: 0.1}, 4), ({2: math.nan, 4: 0.0, 6: math.nan}, 4)],
)
def test_the_best_state_is_the_result(bench, trial, tmp_path, scores, best):
    fitted, keep, snapshots, final = run(bench, trial, scores, tmp_path / "fit")
    assert keep.step == fitted.selected_step == best
    assert torch.equal(final, snapshots[best])
    assert not torch.equal(snapshots[2], snapshots[4])


def test_an_interrupted_fit_chooses_as_an_uninterrupted_one(bench, trial, tmp_path):
    scores = {2: 0.9, 4: 0.2, 6: 0.3}
    _, _, snapshots, _ = run(bench, trial, scores, tmp_path / "whole")
    run(bench, trial, scores, tmp_path / "cut", stop_at=4)
    fitted, keep, _, final = run(bench, trial, scores, tmp_path / "cut")
    assert [step for step, _ in keep.points] == [2, 4, 6]
    assert keep.step == fitted.selected_step == 2
    assert torch.equal(final, snapshots[2])


def test_a_choice_is_not_made_twice(bench, trial, tmp_path):
    """A fit that is over says what it chose, and its scores are not asked for again."""
    scores = {2: 0.2, 4: 0.9, 6: 0.3}
    first, _, snapshots, _ = run(bench, trial, scores, tmp_path)
    again, _, looked_at, final = run(bench, trial, scores, tmp_path)
    assert again == first
    assert again.selected_step == 4
    assert looked_at == {}
    assert torch.equal(final, snapshots[4])
