"""The moving average: golden trace, warm-up, buffers, and that it stands on its own."""

import copy
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tissuebench.methods.teacher_student.teacher import TeacherBuffers, build_teacher

GOLDEN = Path(__file__).parents[2] / "golden"
ALL_BUFFERS = pytest.mark.parametrize("buffers", list(TeacherBuffers))


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "action_schedule_ema.npz", allow_pickle=False) as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


class Vector(nn.Module):
    """Nothing but a weight."""

    def __init__(self, values):
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(values, dtype=torch.float64).clone())


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def change(module, seed):
    """As a step of training would: other weights and other statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    module.train()(torch.randn(4, 3, 8, 8, generator=generator) * 2 + 1)


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def test_golden_trace(arrays):
    teacher = build_teacher(Vector(arrays["ema_teacher0"]), float(arrays["ema_m"]), warm_up=False)
    student = Vector(arrays["ema_student"])
    for update in (1, 2):
        teacher.update_parameters(student)
        torch.testing.assert_close(teacher.module.weight.data, arrays[f"ema_after{update}"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.75, 1.0])
def test_warm_up_is_the_mean_of_all_students_until_the_decay_is_reached(decay):
    """``m_t = t / (t + 1)`` makes the mean; from t / (t + 1) > decay on, the decay."""
    teacher, expected = build_teacher(Vector([100.0]), decay), None
    for t, value in enumerate([3.0, 5.0, 10.0, -2.0, 7.0, 1.0]):
        teacher.update_parameters(Vector([value]))
        m = min(1 - 1 / (t + 1), decay)
        expected = value if t == 0 else m * expected + (1 - m) * value
        torch.testing.assert_close(teacher.module.weight.data, torch.tensor([expected], dtype=torch.float64))
    if decay == 1:
        assert teacher.module.weight.item() == pytest.approx(4.0)


@ALL_BUFFERS
def test_decay_1_keeps_and_0_copies(buffers):
    student = network()
    kept, copied = (build_teacher(student, decay, buffers, warm_up=False) for decay in (1.0, 0.0))
    before = weights(student)
    for seed in (1, 2):
        change(student, seed)
        kept.update_parameters(student)
        copied.update_parameters(student)
    assert same(weights(kept.module), before)
    assert same(weights(copied.module), weights(student)) and not same(weights(student), before)


@pytest.mark.parametrize("warm_up", [True, False])
def test_copied_buffers_are_the_students(warm_up):
    student = network()
    teacher = build_teacher(student, 0.9, TeacherBuffers.COPY, warm_up)
    for seed in (1, 2, 3):
        change(student, seed)
        change(teacher.module, seed + 10)
        teacher.update_parameters(student)
        assert same(dict(teacher.module.named_buffers()), dict(student.named_buffers()))


@pytest.mark.parametrize("warm_up", [True, False])
def test_own_buffers_are_what_the_teacher_saw(warm_up):
    student = network()
    teacher = build_teacher(student, 0.9, TeacherBuffers.OWN, warm_up)
    for seed in (1, 2, 3):
        change(student, seed)
        teacher.train()(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed + 10)))
        own = {name: value.clone() for name, value in teacher.module.named_buffers()}
        teacher.update_parameters(student)
        assert same(dict(teacher.module.named_buffers()), own)
        assert not torch.equal(own["1.running_mean"], student[1].running_mean)
    assert own["1.num_batches_tracked"] == 3


def test_averaged_buffers_are_averaged_and_integers_copied():
    student = network()
    teacher = build_teacher(student, 0.9, TeacherBuffers.AVERAGE, warm_up=False)
    mean = student[1].running_mean.clone()
    for seed in (1, 2, 3):
        change(student, seed)
        teacher.update_parameters(student)
        mean = 0.9 * mean + 0.1 * student[1].running_mean
        torch.testing.assert_close(teacher.module[1].running_mean, mean)
        assert teacher.module[1].num_batches_tracked == student[1].num_batches_tracked == seed


@ALL_BUFFERS
def test_shares_nothing_and_learns_nothing(buffers):
    student = network()
    images = torch.randn(2, 3, 8, 8)
    student(images).sum().backward()
    teacher = build_teacher(student, 0.9, buffers)
    for _ in range(2):
        teacher.update_parameters(student)
    twin = copy.deepcopy(teacher)
    storages = [
        {value.untyped_storage().data_ptr() for value in module.state_dict().values()}
        for module in (student, teacher, twin)
    ]
    assert not (storages[0] & storages[1] or storages[0] & storages[2] or storages[1] & storages[2])
    before = state_of(teacher)
    change(student, 1)
    twin.update_parameters(student)
    assert same(state_of(teacher), before)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in student.parameters())
    assert not teacher.eval()(images).requires_grad


@ALL_BUFFERS
@pytest.mark.parametrize("warm_up", [True, False])
def test_goes_on_from_its_state_as_if_it_had_not_stopped(buffers, warm_up):
    student = network()
    teacher = build_teacher(student, 0.8, buffers, warm_up)
    for seed in (1, 2):
        change(student, seed)
        teacher.update_parameters(student)
    stored = io.BytesIO()
    torch.save([student.state_dict(), teacher.state_dict()], stored)
    stored.seek(0)
    states = torch.load(stored, weights_only=True)
    other = network(seed=9)
    again = build_teacher(other, 0.8, buffers, warm_up)
    other.load_state_dict(states[0])
    again.load_state_dict(states[1])
    for seed in (3, 4):
        for one, average in ((student, teacher), (other, again)):
            change(one, seed)
            average.update_parameters(one)
    assert same(state_of(teacher), state_of(again))


@ALL_BUFFERS
def test_frozen_weights_stay_to_the_bit_and_formats_are_kept(buffers):
    student = network().to(memory_format=torch.channels_last)
    student[0].requires_grad_(False)
    frozen = student[0].weight.clone()
    teacher = build_teacher(student, 0.9, buffers)
    plain = build_teacher(network(), 0.9, buffers)  # of another format than the student
    for seed in (1, 2, 3):
        change(student, seed)
        teacher.update_parameters(student)
        plain.update_parameters(student)
    assert torch.equal(teacher.module[0].weight, frozen)
    assert teacher.module[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert plain.module[0].weight.is_contiguous()
    assert same(weights(plain.module), weights(teacher.module))


def test_keeps_its_mode():
    student = network().train()
    teacher = build_teacher(student, 0.9)
    assert teacher.module.training
    teacher.eval()
    change(student, 1)
    teacher.update_parameters(student)
    assert not teacher.module.training and student.training


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_no_decay_outside_0_to_1(decay):
    with pytest.raises(ValueError, match="decay"):
        build_teacher(Vector([1.0]), decay)
