"""The schedules of the learning rate that all arms share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tissuebench.methods.api.contract import make_task
from tissuebench.methods.api.training_settings import RateSchedule, TrainingSettings
from tissuebench.methods.supervised import Supervised

GOLDEN = Path(__file__).parents[2] / "golden"


def rates(schedule, steps, rate):
    """The rate of each step, and that after the last."""
    task = make_task()
    training = TrainingSettings(steps=steps, learning_rate=rate, rate_schedule=schedule)
    configured = Supervised(replace(task, training=training), Supervised.Config()).configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    for group in optimizer.param_groups:
        group["params"] = []  # the rate alone is looked at
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(found) <= steps:
            scheduler.step()
    return np.array(found)


def test_polynomial_is_the_published_one():
    with np.load(GOLDEN / "action_schedule_ema.npz", allow_pickle=False) as arrays:
        at, expected = arrays["iteration"], arrays["poly_lr_base0p01_max30000"]
    np.testing.assert_allclose(rates(RateSchedule.POLYNOMIAL, 30_000, 0.01)[at], expected, rtol=1e-6, atol=1e-12)


def test_one_cycle_rises_for_a_twentieth_and_ends_at_nothing():
    found = rates(RateSchedule.ONE_CYCLE, 200, 0.5)
    assert found.argmax() == 10 - 1 or found.argmax() == 10
    assert found.max() == pytest.approx(0.5, rel=1e-2)
    assert (np.diff(found[11:]) < 0).all() and found[200] < 1e-4


@pytest.mark.parametrize("schedule", list(RateSchedule))
def test_the_rate_alone_is_scheduled(schedule):
    task = make_task()
    training = TrainingSettings(steps=20, rate_schedule=schedule)
    configured = Supervised(replace(task, training=training), Supervised.Config()).configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    for group in optimizer.param_groups:
        group["params"] = []
    for _ in range(20):
        assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.999)]
        optimizer.step()
        scheduler.step()
