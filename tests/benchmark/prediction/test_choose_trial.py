"""The trial that a method and a budget stand for."""

from __future__ import annotations

import numpy as np
import pytest

from tissuebench.common.hashing import content_hash
from tissuebench.errors import ConfigError
from tissuebench.prediction.choose_trial import choose_trial
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.comparable import results_folder


def result(method="supervised", budget="masks:3p", replicate=0, seed=0, right=50, dataset="toy", part="test", **more):
    """A result of one slide, with ``right`` of 100 pixels correct."""
    counts = np.array([[[right, 100 - right], [100 - right, right]]])
    calibration = np.zeros((1, 15, 3))
    calibration[:, 12] = 200, 166.0, 2 * right
    identity = {"dataset": dataset, "split": "s", "method": method, "config": {}, "budget": [budget, replicate]}
    identity |= {"seed": seed, "evaluation": {"part": part}, "training": more}
    return TrialResult(
        trial_id=content_hash(identity)[:16], dataset=dataset, method=method, budget=budget, minutes=6.0,
        replicate=replicate, seed=seed, classes=("glass", "tumour"), colors=((0, 0, 0), (200, 0, 0)), diagnoses={},
        patient_ids=("p",), slide_ids=("s",), slide_diagnoses=("",), counts=counts,
        boundaries=np.zeros((1, 2, 4), np.int64), calibration=calibration, slide_seconds=np.ones(1), identity=identity,
        environment={}, seconds={"fit": 1.0}, compute={"steps": 1},
    )  # fmt: skip


@pytest.fixture
def home(tmp_path):
    class Home:
        path = tmp_path

        def add(self, *results, weights=True):
            for one in results:
                ResultStore(results_folder(tmp_path)).write(one)
                folder = tmp_path / "runs" / "trials" / one.trial_id
                folder.mkdir(parents=True)
                if weights:
                    (folder / "fitted.pt").touch()
            return results

        def choose(self, *arguments):
            return choose_trial(tmp_path, *arguments)

        def refused(self, *arguments):
            with pytest.raises(ConfigError) as told:
                choose_trial(tmp_path, *arguments)
            assert "\n" not in str(told.value)
            return str(told.value)

    return Home()


def test_test_scores_have_no_say(home):
    """The first draw and seed, though others score better on the test part."""
    home.add(result(replicate=1, seed=0, right=99), result(replicate=0, seed=1, right=90))
    (first,) = home.add(result(replicate=0, seed=0, right=10))
    home.add(result(budget="masks:6p", right=99), result("other", right=99))
    choice = home.choose("supervised", "masks:3p")
    assert choice.trial == first.trial_id
    assert choice.reason == (
        f"trial {first.trial_id[:8]} (supervised masks:3p on toy, draw 0, seed 0): "
        "the first of 3; none was scored on validation patients"
    )


def test_validation_scores_of_the_same_trainings_decide(home):
    _, best, _ = home.add(*(result(seed=seed, right=90 - 10 * seed) for seed in range(3)))
    home.add(*(result(seed=seed, right=right, part="val") for seed, right in enumerate((20, 80))))
    home.add(result(seed=2, right=99, part="val", steps=7))  # another training
    choice = home.choose("supervised", "masks:3p", "toy")
    assert choice.trial == best.trial_id
    assert "the best of 2 of 3 on validation patients (mIoU 0.667)" in choice.reason


def test_trials_scored_on_validation_patients_only(home):
    _, best = home.add(result(seed=0, right=30, part="val"), result(seed=1, right=60, part="val"))
    assert home.choose("supervised", "masks:3p").trial == best.trial_id


def test_the_main_table_comes_first(home):
    (other,) = home.add(result("mine", steps=9))
    main = home.add(*(result("mine", seed=seed) for seed in (2, 1)), result("supervised"))
    assert home.choose("mine", "masks:3p").trial == main[1].trial_id
    assert home.choose("supervised", "masks:3p").trial == main[2].trial_id
    (only,) = home.add(result("mine", "masks:9p", steps=9))
    assert home.choose("mine", "masks:9p").trial == only.trial_id != other.trial_id


def test_variants(home):
    (one,) = home.add(result("mean_teacher[decay=0.95]"))
    assert home.choose("mean_teacher", "masks:3p").trial == one.trial_id
    (two,) = home.add(result("mean_teacher[decay=0.9]"))
    assert (
        "has several variants here: give one of mean_teacher[decay=0.95], mean_teacher[decay=0.9] in full"
        in home.refused("mean_teacher", "masks:3p")
    )
    assert home.choose("mean_teacher[decay=0.9]", "masks:3p").trial == two.trial_id
    (plain,) = home.add(result("mean_teacher"))
    assert home.choose("mean_teacher", "masks:3p").trial == plain.trial_id


def test_what_is_there_is_said(home):
    assert "nor any other: train it with 'tissuebench run --method x --budget masks:3p'" in home.refused(
        "x", "masks:3p"
    )
    home.add(result(), result(dataset="liver"))
    assert "finished on several datasets: give --dataset liver or toy" in home.refused("supervised", "masks:3p")
    assert home.choose("supervised", "masks:3p", "liver").reason.startswith("trial ")
    line = home.refused("x", "masks:3p")
    assert "finished are supervised masks:3p (liver), supervised masks:3p (toy): see 'tissuebench trial list'" in line
    home.add(result(budget="masks:4p"), weights=False)
    assert "have no weights in" in home.refused("supervised", "masks:4p")
