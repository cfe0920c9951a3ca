"""Steps on masks, over all stages of a trial, in its record."""

from __future__ import annotations

from tissuebench.methods.anatomical_contrast import AnatomicalContrast
from tissuebench.methods.mean_teacher import RestartedMeanTeacher
from tissuebench.plans.expand import expand
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.results.tables.compute_cost import compute_rows
from tissuebench.sweep.graph import stages_of

OURS, CONTROL = AnatomicalContrast.name, RestartedMeanTeacher.name


def test_the_record_of_a_trial_has_its_annotated_steps_and_all_steps(bench):
    few = (
        "global_training.steps=5",
        "global_training.batch_size=3",
        "local_training.steps=4",
        "queue=6",
        "representation=8",
        "queries=8",
        "negatives=8",
    )
    overrides = ("seeds=[0]", "budgets=['masks:2p']", *(f"methods.{OURS}.{each}" for each in few))
    trials = expand(bench.plan(*overrides), [OURS], bench.data, bench.home)
    wanted = [trial for trial in trials if trial.method in (OURS, CONTROL, "supervised")]
    assert {trial.method: len(stages_of(trial)) for trial in wanted} == {OURS: 2, CONTROL: 1, "supervised": 0}
    assert not bench.run(wanted).failed
    rows = {
        row.method.partition("[")[0]: row for row in compute_rows(list(ResultStore(results_folder(bench.home)).load()))
    }
    found = {name: (row.annotated_steps, row.all_steps) for name, row in rows.items()}
    assert found == {OURS: (10, 15), CONTROL: (10, 10), "supervised": (6, 6)}
