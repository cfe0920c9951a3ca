"""The teacher in a mean teacher: it starts as the student, gets no gradient, and follows after every step."""

from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Callback

from tests.methods.mean_teachers import learning, made
from tests.methods.student_teacher import NETWORKS, PAPER, copied, loss_of, same
from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.loading.datamodule import LoaderSettings, TileDataModule
from tissuebench.methods.api.contract import make_batch, make_task
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.mean_teacher import MeanTeacher
from tissuebench.methods.teacher_student.teacher import TeacherBuffers
from tissuebench.runtime.machine import Machine
from tissuebench.training.fit import fit, seed_everything

STEPS = 5


@NETWORKS
def test_the_teacher_begins_as_the_student_and_no_loss_reaches_it(network):
    method = learning(strong=0.3, **network)
    assert same(copied(method.teacher.module), copied(method.network))
    student = {id(parameter) for parameter in method.network.parameters()}
    optimizer = method.configure_optimizers()["optimizer"]
    assert {id(parameter) for group in optimizer.param_groups for parameter in group["params"]} == student
    before = copied(method.teacher)
    loss_of(method, make_batch(method)).backward()
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in method.network.parameters())
    assert same(copied(method.teacher), before)


@pytest.mark.parametrize("buffers", list(TeacherBuffers))
def test_only_a_teacher_with_buffers_of_its_own_trains(buffers):
    method, own = made(teacher_buffers=buffers, **PAPER), buffers is TeacherBuffers.OWN
    assert method.training
    for _ in range(2):
        assert {module.training for module in method.teacher.modules()} == {own}  # as it is made, and later
        method.eval()
        assert not any(module.training for module in method.modules())
        method.train()
        assert all(module.training for module in method.network.modules())


class Watching(Callback):
    """Keeps the student and the teacher after every step, and in which mode they were."""

    def __init__(self):
        self.students, self.teachers, self.modes = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.modes.append((pl_module.network.training, pl_module.teacher.module.training))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.students.append(copied(pl_module.network))
        self.teachers.append(copied(pl_module.teacher.module))


@pytest.fixture
def fitted(tiny_data, tmp_path):
    """Fits a new method with the masks of two patients; the method, and what was seen."""

    def started(**config):
        training = TrainingSettings(steps=STEPS, batch_size=2)
        seed_everything(0)
        method = MeanTeacher(replace(make_task(), training=training, tile_px=32), MeanTeacher.Config(**config))
        budget = draw_budget(tiny_data.store, tiny_data.split, "masks:2p", 0)
        view = LabelView.for_training(tiny_data.store, tiny_data.split, budget, MeanTeacher.consumes)
        data = TileDataModule(tiny_data.store, view, method.streams(), 0, STEPS, AugmentSettings())
        machine, watching = Machine("cpu", torch.device("cpu"), "32-true", LoaderSettings()), Watching()
        fit(method, data, tmp_path, 0, machine, lambda _: None, watchers=[watching])
        return method, watching

    return started


@pytest.mark.parametrize(("network", "warm_up"), [({}, 0.5), (PAPER, 0.0)], ids=["matched", "paper"])
def test_in_a_fit_the_teacher_follows_after_every_step(fitted, network, warm_up):
    """Also before it is asked: ``m_t = min(1 - 1 / (t + 1), decay)``, and statistics are copies."""
    method, watching = fitted(decay=0.6, warm_up=warm_up, **network)
    assert watching.modes == [(True, False)] * STEPS
    expected = {}
    for t, (student, teacher) in enumerate(zip(watching.students, watching.teachers, strict=True)):
        m = min(1 - 1 / (t + 1), 0.6)
        for name, _ in method.network.named_parameters():
            expected[name] = student[name] if t == 0 else m * expected[name] + (1 - m) * student[name]
            torch.testing.assert_close(teacher[name], expected[name], rtol=1e-4, atol=1e-6)
        statistics = {name for name, _ in method.network.named_buffers() if "running" in name}
        assert statistics and all(torch.equal(teacher[name], student[name]) for name in statistics)
    head = next(name for name in expected if name.endswith("weight"))
    assert not torch.equal(watching.students[-1][head], watching.students[-2][head])
    assert not torch.equal(watching.students[-1][head], watching.teachers[-1][head])


def test_in_a_fit_a_teacher_may_keep_the_statistics_of_what_it_saw(fitted):
    method, watching = fitted(teacher_buffers="own", warm_up=0, **PAPER)
    assert watching.modes == [(True, True)] * STEPS
    student, teacher = method.network.state_dict(), method.teacher.module.state_dict()
    means = [name for name in student if name.endswith("running_mean")]
    assert means and not any(torch.equal(student[name], teacher[name]) for name in means)
    counts = {name: (int(student[name]), int(teacher[name])) for name in student if name.endswith("batches_tracked")}
    assert set(counts.values()) == {(2 * STEPS, STEPS)}  # a student sees annotated and other tiles
