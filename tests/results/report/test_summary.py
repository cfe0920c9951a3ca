"""Sentences never say more than the numbers."""

from __future__ import annotations

import numpy as np

from tests.results.report.drawing import lined_up
from tissuebench.results.report.subject import Subject
from tissuebench.results.report.summary import summary
from tissuebench.results.tables.leaderboard import CellKey, build


def view_of(trials, expected=()):
    return lined_up(Subject("toy", build(trials, expected=expected), trials, [], {}, {}))


def two_methods(make_trial, skills, seeds=4):
    rng = np.random.default_rng(1)
    return [
        make_trial(method, seed=seed, replicate=seed, rng=rng, skill=skill, n_patients=8)
        for seed in range(seeds)
        for method, skill in skills.items()
    ]


def test_equals_are_tied_and_named(make_trial):
    text = " ".join(summary(view_of(two_methods(make_trial, {"supervised": 0.5, "other": 0.5}))))
    assert "there is no single best method" in text
    assert "the control, is among the tied" in text
    assert "has the highest" not in text
    assert "not distinguishable at any: other" in text


def test_a_clear_difference_is_said(make_trial):
    text = " ".join(summary(view_of(two_methods(make_trial, {"supervised": 0.3, "other": 2.0}))))
    assert "At masks:3p (24 min) other has the highest mIoU" in text
    assert "better at every budget measured: other" in text
    assert "no single best" not in text


def test_a_worse_method_is_called_worse(make_trial):
    text = " ".join(summary(view_of(two_methods(make_trial, {"supervised": 2.0, "other": 0.2}))))
    assert "no method is better at every budget measured; worse at every one: other" in text


def test_gaps_and_few_draws_are_said(make_trial):
    trials = two_methods(make_trial, {"supervised": 0.5, "other": 0.5})
    text = summary(view_of(trials, [CellKey("toy", "late", "masks:3p", 4)]))
    assert "Not complete, and left without numbers: late at masks:3p (0 of 4 trials)." in text
    assert text[-1] == "The intervals rest on 8 patients and as few as 4 runs of a method: they are wide for it."


def test_nothing_finished():
    board = build([], expected=[CellKey("toy", "supervised", "masks:3p", 1)])
    assert summary(lined_up(Subject("toy", board, [], [], {}, {}))) == [
        "Nothing is complete yet, so there are no scores."
    ]
