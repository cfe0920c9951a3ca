"""Tables, scores and counts as DataFrames: columns, types, and the numbers of the tables."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tissuebench.results.frames.rows import label_efficiency
from tissuebench.results.frames.trials import patient_scores, slide_areas, slide_counts, trial_scores
from tissuebench.results.metrics import dice, miou
from tissuebench.results.tables.label_efficiency import EfficiencyRow
from tissuebench.results.tables.leaderboard import build


@pytest.fixture(scope="module")
def results(make_trial):
    made = [
        make_trial(method, budget, 0, seed, rng=np.random.default_rng([seed, i]), skill=skill, minutes=minutes)
        for seed in range(2)
        for i, (method, skill) in enumerate((("supervised", 0.3), ("good[a=1,b=2]", 0.9)))
        for budget, minutes in (("masks:3p", 24.0), ("masks:25%", 130.0))
    ]
    return [*made, make_trial("full", "masks:all", rng=np.random.default_rng(9), skill=2.0, minutes=999.0)]


def records(frame):
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def test_the_mean_over_trials_is_that_of_the_table(results):
    trials = trial_scores(results)
    assert sorted(trials.trial_id) == sorted(one.trial_id for one in results)
    board = {(row.method, row.budget, row.metric): row.mean for row in build(results).rows}
    metrics = [name for name in trials if name in {metric for _, _, metric in board}]
    assert len(board) == trials.groupby(["method", "budget"]).ngroups * len(metrics)
    means = trials.groupby(["method", "budget"])[metrics].mean()
    for (method, budget, metric), mean in board.items():
        assert means.loc[(method, budget), metric] == pytest.approx(mean)


def test_datasets_of_other_classes_stand_in_one_frame(make_trial):
    both = [
        make_trial(dataset=name, classes=classes, diagnoses={}, rng=np.random.default_rng(0))
        for name, classes in (("a", ("x", "y")), ("b", ("x", "z", "w")))
    ]
    trials = trial_scores(both).set_index("dataset")
    assert trials["dice/x"].notna().all() and trials["dice/z"].isna().to_dict() == {"a": True, "b": False}


def test_censored_minutes_are_null_and_say_on_which_side():
    row = EfficiencyRow("d", "m", "miou", 3, 8.0, 80.0, 0.5, 0.4, 0.6, 30.0, 0.0, math.inf, 8.0, 80.0)
    never = replace(row, minutes=math.inf, minutes_low=40.0)
    unknown = replace(row, minutes=None, minutes_low=None, minutes_high=None)
    got = records(label_efficiency([row, never, unknown]))
    sides = [
        [(one[name], one[f"{name}_censored"]) for name in ("minutes", "minutes_low", "minutes_high")] for one in got
    ]
    assert sides == [
        [(30.0, None), (None, "left"), (None, "right")],
        [(None, "right"), (40.0, None), (None, "right")],
        [(None, None)] * 3,
    ]
    assert {one["smallest"] for one in got} == {8.0} and {one["largest"] for one in got} == {80.0}


def test_each_patient_of_each_trial_is_scored_alone(results, make_trial):
    absent = make_trial("absent", counts=[np.diag([5, 5, 0])] * 12)
    rows = records(patient_scores([*results, absent]))
    metrics = {row["metric"] for row in rows}
    assert "balanced_accuracy" not in metrics and {"ece", "area_error"} <= metrics
    assert len(rows) == (len(results) + 1) * 6 * len(metrics)
    assert len({(row["trial_id"], row["patient"], row["metric"]) for row in rows}) == len(rows)
    found = {(row["trial_id"], row["patient"], row["metric"]): row["score"] for row in rows}
    for trial in results:
        for patient in ("p0", "p5"):
            pooled = sum(trial.counts[i] for i, name in enumerate(trial.patient_ids) if name == patient)
            assert found[trial.trial_id, patient, "miou"] == pytest.approx(float(miou(pooled)))
            assert found[trial.trial_id, patient, "dice/CCA"] == pytest.approx(float(dice(pooled)[2]))
    assert found[absent.trial_id, "p0", "dice/CCA"] is None


def test_counts_of_slides_come_back(results):
    rows = records(slide_counts(results))
    for trial in results[:3]:
        back = np.zeros_like(trial.counts)
        for row in (row for row in rows if row["trial_id"] == trial.trial_id):
            at = trial.slide_ids.index(row["slide"])
            assert row["patient"] == trial.patient_ids[at] and row["seed"] == trial.seed
            back[at, trial.classes.index(row["truth"]), trial.classes.index(row["predicted"])] += row["pixels"]
        np.testing.assert_array_equal(back, trial.counts)
    assert all(row["pixels"] > 0 for row in rows)


def test_patients_that_nobody_annotated_have_no_scores_of_their_own_but_areas(make_trial):
    counts = np.array([np.diag([5, 5, 0])] * 11 + [np.zeros((3, 3))], dtype=np.int64)
    areas = np.arange(36).reshape(12, 3)
    names = tuple(f"p{i}" for i in range(12))
    trial = make_trial(counts=counts, areas=areas, patient_ids=names, slide_diagnoses=("HCC", "CCA", "") * 4)
    assert {row["patient"] for row in records(patient_scores([trial]))} == set(names[:11])
    rows = records(slide_areas([trial]))
    back = {(row["slide"], row["class"]): row["pixels"] for row in rows}
    expected = {
        (slide, name): int(areas[i, c])
        for i, slide in enumerate(trial.slide_ids)
        for c, name in enumerate(trial.classes)
        if trial.slide_diagnoses[i]
    }
    assert back == expected and len(rows) == len(expected)
    assert {row["patient"] for row in rows} == {name for i, name in enumerate(names) if i % 3 < 2}
