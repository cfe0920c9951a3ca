"""A fit is asked to stop, killed, or typed again: nothing twice, nothing torn, the same bits."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment

from tissuebench.common.hashing import derive_seed
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.datamodule import StepDataset, TileDataModule
from tissuebench.errors import DataError
from tissuebench.methods.api.registry import find_method
from tissuebench.results.records.curves import CURVES_FILE, read_curves
from tissuebench.runtime.machine import detect_machine
from tissuebench.training.build import task_of
from tissuebench.training.checkpoints import FITTED, LAST, weights_of, write_torch
from tissuebench.training.fit import Interrupted, TrainingError, fit, seed_everything
from tissuebench.training.lightning_plugins import WorldEnvironment

STEPS = 6


@pytest.fixture(autouse=True)
def _plain_sigterm():
    """As in a process that has just begun; another test's command may have left a handler of its own."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def trial(bench):
    (trial,) = bench.trials(bench.plan("seeds=[0]", "budgets=['masks:2p']"), "supervised")
    return trial


@pytest.fixture
def start(bench, trial, tmp_path):
    """Fits a new network in a folder of that name; hands back its state, what it took, and the steps it took."""

    def started(name="fit", report=lambda step: None, change=lambda method: None, **options):
        seed_everything(derive_seed(trial.seed, "init"))
        method = find_method(trial.method)(task_of(bench.data, trial.network, trial.training), trial.config)
        change(method)
        view = LabelView.for_training(bench.data.store, bench.data.split, trial.budget, method.consumes)
        data = TileDataModule(bench.data.store, view, method.streams(), trial.seed, STEPS, trial.augmentation)
        machine = detect_machine(trial.network.encoder_mode)
        (tmp_path / name).mkdir(exist_ok=True)
        seen = []

        def noted(step):
            seen.append(step)
            report(step)

        fitted = fit(method, data, tmp_path / name, trial.seed, machine, noted, **options)
        return {key: value.clone() for key, value in method.state_dict().items()}, fitted, seen

    return started


def after(step):
    """A ``stop`` that says yes from the so-manieth time on that it is asked."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= step


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


def same_bits(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_fit_that_is_asked_to_stop_goes_on_with_the_same_bits(start, tmp_path):
    state, fitted, _ = start("whole", stop=lambda: False)
    with pytest.raises(Interrupted, match=f"stopped at step 2 of {STEPS}"):
        start(stop=after(2))
    with pytest.raises(Interrupted, match=f"stopped at step 3 of {STEPS}"):
        start(stop=after(1))
    assert torch.load(tmp_path / "fit" / LAST, weights_only=True)["global_step"] == 3
    again, took, seen = start(stop=lambda: False)
    assert seen == [3, 4, 5, 6]
    same_bits(again, state)
    curves = [read_curves(tmp_path / name)["train/loss"] for name in ("whole", "fit")]
    assert [step for step, _ in curves[0]] == [1, STEPS]
    assert curves[0] == curves[1]
    assert took.steps == fitted.steps


def test_a_fit_asked_to_stop_at_its_last_step_is_over(start, tmp_path):
    with pytest.raises(Interrupted, match="after the last step"):
        start(stop=after(STEPS))
    assert contents(tmp_path / "fit") == [FITTED, CURVES_FILE]
    _, fitted, seen = start()
    assert seen == []
    assert fitted.steps == STEPS


def test_seconds_are_those_of_all_resumptions(start):
    with pytest.raises(Interrupted):
        start(stop=after(3))
    step, seconds_of = [0], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning.pytorch.callbacks.timer.time.monotonic", lambda: float(step[0]))
        for stop in (after(2), lambda: False):
            step[0] = 0

            def a_hundred_seconds_later(_):
                step[0] += 100

            try:
                seconds_of.append(start(report=a_hundred_seconds_later, stop=stop)[1].seconds)
            except Interrupted:
                seconds_of.append(None)
    # of 100 s each: one report when it starts again and one a step, for steps 4 and 5, then for step 6
    assert seconds_of[0] is None
    assert 300 + 200 <= seconds_of[1] < 300 + 200 + 100


@pytest.fixture
def clock(monkeypatch):
    """Time goes by where the test says so: in loading a batch, and in a step."""
    now, batch_of = [0.0], StepDataset.__getitem__

    def taking(of_data, of_step):
        def slowly(dataset, step):
            now[0] += of_data
            return batch_of(dataset, step)

        def report(step):
            now[0] += of_step

        monkeypatch.setattr(StepDataset, "__getitem__", slowly)
        monkeypatch.setattr("tissuebench.training.callbacks.time.perf_counter", lambda: now[0])
        return report

    return taking


@pytest.mark.parametrize(("of_data", "of_step", "share"), [(1, 0, 1), (0, 1, 0)])
def test_waiting_is_the_share_that_data_took(start, clock, of_data, of_step, share):
    assert start(report=clock(of_data, of_step))[1].waiting == pytest.approx(share, abs=1e-6)


def test_waiting_is_that_since_the_fit_was_resumed_and_is_kept(start, clock):
    with pytest.raises(Interrupted):
        start(report=clock(1, 9), stop=after(4))
    _, fitted, _ = start(report=clock(3, 1))
    assert fitted.waiting == pytest.approx(0.75)
    assert start()[1].waiting == fitted.waiting


def test_a_fit_that_is_over_is_not_repeated(start, tmp_path):
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "mine.txt").write_text("kept")
    state, fitted, _ = start()
    assert contents(tmp_path / "fit") == [FITTED, CURVES_FILE, "mine.txt"]
    kept = torch.load(tmp_path / "fit" / FITTED, weights_only=True)
    assert set(kept) == {"state", "seconds", "waiting", "selected_step"}
    assert kept["selected_step"] is None
    same_bits(weights_of(tmp_path / "fit"), state)

    def scrambled(method):
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.fill_(7)

    again, took, seen = start(change=scrambled)
    assert seen == []
    assert took == fitted
    same_bits(again, state)


def test_weights_of_a_fit_that_is_not_over(start, tmp_path):
    with pytest.raises(Interrupted):
        start(stop=after(2))
    with pytest.raises(DataError, match=r"fitted\.pt: no such file"):
        weights_of(tmp_path / "fit")


@pytest.mark.parametrize(("name", "left"), [(LAST, 0.5), (LAST, 0), (FITTED, 10)])
def test_a_torn_file_does_not_end_the_trial(start, tmp_path, name, left):
    folder = tmp_path / "fit"
    if name == LAST:
        with pytest.raises(Interrupted):
            start(stop=after(4))
    else:
        start()
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(left * len(data)) if left < 1 else left])
    with pytest.warns(UserWarning, match=rf"{name}: cannot be read .* it is now {name}\.damaged"):
        _, fitted, seen = start()
    assert seen == list(range(STEPS + 1))
    assert fitted.steps == STEPS


class Killed(BaseException):
    """As good as kill -9: nothing that follows is done."""


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(start, tmp_path, monkeypatch):
    state, _, _ = start("whole")
    folder, written = tmp_path / "fit", []

    def killed_at_the_third(handle):
        written.append(handle)
        if len(written) > 2 + 4:  # the file and its folder, each time; the curves begin before the first checkpoint
            raise Killed

    monkeypatch.setattr("tissuebench.common.files.os.fsync", killed_at_the_third)
    with pytest.raises(Killed):
        start(checkpoint_minutes=0)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # Lightning left its own
    assert torch.load(folder / LAST, weights_only=True)["global_step"] == 2
    (folder / f".{LAST}.0123.tmp").write_bytes(b"what a killed process leaves")
    again, _, seen = start()
    assert seen[0] == 2
    same_bits(again, state)
    assert contents(folder) == [FITTED, CURVES_FILE]


def test_a_result_is_there_in_full_or_not_at_all(start, tmp_path, monkeypatch):
    def killed(path, content):
        if path.name == FITTED:
            raise Killed
        write_torch(path, content)

    monkeypatch.setattr("tissuebench.training.fit.write_torch", killed)
    with pytest.raises(Killed):
        start(checkpoint_minutes=0)
    monkeypatch.undo()
    assert torch.load(tmp_path / "fit" / LAST, weights_only=True)["global_step"] == STEPS - 1
    assert start()[2] == [STEPS - 1, STEPS]


def test_what_failed_is_not_gone_on_from(start, tmp_path):
    def failing(step):
        if step == 3:
            raise TrainingError("no number")

    with pytest.raises(TrainingError):
        start(report=failing)
    assert contents(tmp_path / "fit") == [CURVES_FILE]


def test_without_stop_sigterm_is_an_interruption_that_can_be_resumed(start, tmp_path):
    def terminated(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt) as raised:
        start(report=terminated, checkpoint_minutes=0)
    assert not isinstance(raised.value, Interrupted)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert torch.load(tmp_path / "fit" / LAST, weights_only=True)["global_step"] == 3


def test_a_process_that_answers_sigterm_itself_is_left_to_it(start, tmp_path):
    asked, handlers = [], set()
    answer = lambda *_: asked.append(True)  # noqa: E731 - compared by identity
    before = signal.signal(signal.SIGTERM, answer)

    def terminated(step):
        if step > 0:
            handlers.add(signal.getsignal(signal.SIGTERM))
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with pytest.raises(Interrupted):
            start(report=terminated, stop=lambda: bool(asked))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert handlers == {answer}
    assert asked == [True]
    assert torch.load(tmp_path / "fit" / LAST, weights_only=True)["global_step"] == 3


def test_lightning_does_not_take_a_job_of_slurm_for_its_own(start, tmp_path, monkeypatch):
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "sweep",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_NODEID": "0",
    }
    for name, value in {**job, "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert SLURMEnvironment.detect()
    trainers = []

    def looked_at(method):
        step = method.training_step

        def noted(*batch):
            trainers.append((method.trainer, signal.getsignal(signal.SIGUSR1)))
            return step(*batch)

        method.training_step = noted

    _, _, seen = start(change=looked_at)
    assert seen == list(range(STEPS + 1))
    trainer, on_usr1 = trainers[0]
    assert isinstance(trainer._accelerator_connector.cluster_environment, WorldEnvironment)
    assert (trainer.global_rank, trainer.world_size) == (0, 1)
    assert on_usr1 == signal.SIG_DFL
    assert contents(tmp_path / "fit") == [FITTED, CURVES_FILE]
