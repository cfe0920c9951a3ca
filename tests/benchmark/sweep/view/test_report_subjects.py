"""Failures in a report: only those of trials with the shared settings of its results."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tissuebench.results.records.result_store import Failure
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.folders import JOB, task_folder
from tissuebench.sweep.view.report_subjects import _belongs

ONE = ("seeds=[0]", "budgets=['masks:2p']")


def trial_of(bench, *overrides):
    (trial,) = bench.trials(bench.plan(*ONE, *overrides), "supervised")
    return trial


@pytest.mark.parametrize(
    ("of_the_failure", "of_the_result", "expected"),
    [
        ((), (), True),
        (("augmentation.orientations=flips",), ("augmentation.orientations=flips",), True),
        (("augmentation.orientations=flips",), (), False),
        ((), ("augmentation.orientations=flips",), False),
        (("augmentation.color=0.1",), (), False),
        (("evaluation.overlap=0",), (), False),
        (("compute.slots=1",), (), True),
    ],
)
def test_a_failure_belongs_to_results_of_the_same_settings(bench, of_the_failure, of_the_result, expected):
    trial = trial_of(bench, *of_the_failure)
    job = bench.graph([trial])[trial.id].job
    folder = task_folder(bench.home, TaskKind.TRIAL, trial.id)
    folder.mkdir(parents=True)
    (folder / JOB).write_text(job.to_json())
    failure = Failure(trial.id, "tiny", "supervised", "masks:2p", 0, 0, "RuntimeError: no more of this", "")
    like = SimpleNamespace(dataset="tiny", identity=trial_of(bench, *of_the_result).identity())
    assert _belongs(bench.home, failure, like) is expected
