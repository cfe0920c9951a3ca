"""Each step stands once in the curves, wherever a fit was killed, and no logger changes what is learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tissuebench.common.hashing import derive_seed
from tissuebench.methods.supervised import Supervised
from tissuebench.plans.schema import Tracking
from tissuebench.results.records.curves import CURVES_FILE, read_curves
from tissuebench.runtime.machine import detect_machine
from tissuebench.training.build import build_datamodule, task_of
from tissuebench.training.fit import TrainingError, fit, seed_everything
from tissuebench.training.loggers import CURVES_ONLY, CurvesLogger, loggers_of

STEPS = 35
LOGGED = [1, 10, 20, 30, STEPS]


class Talkative(Supervised):
    """Logs three numbers: at every step, at every second step that is logged, and one that counts the steps."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        step = self.trainer.global_step + 1
        self.log("loss/masks", loss)
        if step % 20 == 0:
            self.log("now_and_then", step)
        self.log_dict({"counted": torch.tensor(float(step))})
        return loss


class Killed(BaseException):
    """As good as kill -9: nothing that follows is done."""


@pytest.fixture
def start(bench, tmp_path):
    (trial,) = bench.trials(bench.plan("seeds=[0]", "budgets=['masks:2p']", f"training.steps={STEPS}"), "supervised")

    def started(name, dies_at=None, open_loggers=CURVES_ONLY, kind=Talkative):
        seed_everything(derive_seed(trial.seed, "init"))
        method = kind(task_of(bench.data, trial.network, trial.training), trial.config)
        machine = detect_machine(trial.network.encoder_mode)
        data = build_datamodule(trial, method, bench.data, None, machine)
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)

        def report(step):
            if step == dies_at:
                raise Killed

        # a checkpoint after every seventh step: its clock is that of the steps
        clock = iter(range(10**6))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tissuebench.training.checkpoints.time.perf_counter", lambda: float(next(clock)))
            fit(method, data, folder, trial.seed, machine, report, 7 / 60, open_loggers=open_loggers)
        return folder, {name: value.clone() for name, value in method.state_dict().items()}

    return started


def without_clock(folder):
    timed = ("train/tiles_per_second", "train/waiting")
    return {name: points for name, points in read_curves(folder).items() if name not in timed}


def test_what_a_method_logs_stands_in_the_curves(start):
    folder, _ = start("fit")
    curves = read_curves(folder)
    assert [step for step, _ in curves["loss/masks"]] == LOGGED
    assert curves["counted"] == tuple((step, float(step)) for step in LOGGED)
    assert curves["now_and_then"] == ((20, 20.0),)  # and not again at step 30
    assert curves["loss/masks"] == curves["train/loss"]
    for name in ("train/rate", "train/gradient_norm", "train/tiles_per_second", "train/waiting"):
        assert [step for step, _ in curves[name]] == LOGGED
        assert np.isfinite([value for _, value in curves[name]]).all()
    assert all(0 <= share <= 1 for _, share in curves["train/waiting"])


def test_a_fit_that_is_killed_twice_has_each_step_once(start):
    """In the file and in TensorBoard, with the values of a fit that was not; logged steps before and after a checkpoint."""
    both = loggers_of([Tracking.TENSORBOARD])
    whole, state = start("whole", open_loggers=both)
    for dies_at in (12, 31):
        with pytest.raises(Killed):
            start("killed", dies_at, both)
    killed, again = start("killed", open_loggers=both)
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    assert without_clock(killed) == without_clock(whole)
    for folder in (whole, killed):
        events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0}).Reload()
        for name, points in read_curves(folder).items():
            assert [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)] == list(points)


def test_no_logger_changes_what_is_learned(start):
    states = [
        start(str(number), open_loggers=loggers, kind=kind)[1]
        for number, (loggers, kind) in enumerate(
            [
                (lambda folder, done: [], Supervised),
                (CURVES_ONLY, Talkative),
                (loggers_of([Tracking.TENSORBOARD]), Talkative),
            ]
        )
    ]
    for other in states[1:]:
        assert all(torch.equal(value, other[name]) for name, value in states[0].items())


def test_curves_can_be_read_while_a_fit_goes_on(start, tmp_path):
    with pytest.raises(Killed):
        start("killed", 15)
    assert [step for step, _ in read_curves(tmp_path / "killed")["loss/masks"]] == [1, 10]


def test_a_loss_that_is_not_finite_names_the_terms_that_are_not(start):
    class Diverging(Talkative):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("loss/other", loss * float("nan"))
            return loss if self.trainer.global_step < 9 else loss * float("nan")

    with pytest.raises(TrainingError, match=r"loss is nan at step 10; not finite either: loss/other$"):
        start("fit", kind=Diverging)


def test_values_of_one_step_share_a_row(tmp_path):
    logger = CurvesLogger(tmp_path, 0)
    logger.log_metrics({"a": 0.1}, 1)
    logger.log_metrics({"a": 1 / 3, "b, c": 2.0}, 2)
    logger.log_metrics({"d": float("nan")}, 2)
    logger.log_metrics({"a": 1e-12}, 3)
    assert (tmp_path / CURVES_FILE).read_text() == ('step,a,"b, c",d\n1,0.1,,\n2,0.333333333,2,nan\n3,1e-12,,\n')


def test_a_resumed_logger_drops_what_came_after_the_checkpoint(tmp_path):
    first = CurvesLogger(tmp_path, 0)
    for step in (1, 10, 20):
        first.log_metrics({"a": float(step)}, step)
    with (tmp_path / CURVES_FILE).open("a") as file:
        file.write("30,3")
    again = CurvesLogger(tmp_path, 10)
    assert (tmp_path / CURVES_FILE).read_text() == "step,a\n1,1\n10,10\n"
    again.log_metrics({"a": 21.0}, 20)
    assert read_curves(tmp_path)["a"] == ((1, 1.0), (10, 10.0), (20, 21.0))


def test_a_new_fit_begins_new_curves(tmp_path):
    CurvesLogger(tmp_path, 0).log_metrics({"a": 1.0}, 1)
    CurvesLogger(tmp_path, 0)
    assert not (tmp_path / CURVES_FILE).exists()


def test_damaged_curves_do_not_end_a_resumed_fit(tmp_path):
    (tmp_path / CURVES_FILE).write_text("step,a\n10,much\n")
    with pytest.warns(UserWarning, match=r"metrics.csv: line 2: .* it is now metrics.csv.damaged"):
        logger = CurvesLogger(tmp_path, 10)
    logger.log_metrics({"a": 2.0}, 20)
    assert read_curves(tmp_path) == {"a": ((20, 2.0),)}
