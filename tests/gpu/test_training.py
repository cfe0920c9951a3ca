"""Training on a device: clipping and scaling, memory formats, compilation, determinism, memory, resumption."""

from __future__ import annotations

import functools
import gc
import itertools
import math

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from tests.gpu.stages import NETWORK, SHIPPED
from tissuebench.methods.networks import build_segmenter
from tissuebench.methods.networks.settings import NetworkSettings
from tissuebench.results.records.curves import read_curves
from tissuebench.runtime.determinism import deterministic_algorithms
from tissuebench.runtime.precision import BF16, FP16, FP32
from tissuebench.training.checkpoints import FITTED, LAST, read_torch
from tissuebench.training.fit import Interrupted, TrainingError

PRECISIONS = [FP32, BF16, FP16]
QUICK = ("complementary", "diffusion", "multilayer_pseudo")


def weights(method):
    return {name: value.detach().cpu().clone() for name, value in method.named_parameters()}


def norm_of(changes):
    return math.sqrt(sum(float(change.double().square().sum()) for change in changes))


@pytest.mark.usefixtures("low_scale")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_fused_optimiser_steps_by_the_gradient_that_was_clipped_unscaled(lab, machine, precision):
    """SGD shows it: the weights move by rate times norm."""
    rate, clip, before = 0.1, 0.01, {}
    plain = {"optimizer": "sgd", "learning_rate": rate, "rate_schedule": "constant", "weight_decay": 0.0}
    trial = lab.trial("supervised", 1, gradient_clip=clip, **plain)
    method = lab.train(trial, machine(precision), change=lambda method: before.update(weights(method)))
    moved = norm_of(value - before[name] for name, value in weights(method).items())
    assert moved == pytest.approx(rate * clip, rel=1e-2)


@pytest.mark.usefixtures("low_scale")
@pytest.mark.parametrize("precision", [BF16, FP16])
def test_the_norm_in_the_curves_is_unscaled_with_fused_adamw(lab, machine, precision):
    trial = lab.trial("supervised", 1, gradient_clip=1.0)
    curves = {}
    for each in (FP32, precision):
        folder = lab.new_folder()
        lab.train(trial, machine(each), folder)
        curves[each] = read_curves(folder)
    norms = [of["train/gradient_norm"][0][1] for of in curves.values()]
    assert norms[1] == pytest.approx(norms[0], rel=0.1)
    assert ("train/loss_scale" in curves[precision]) == (precision == FP16)


def test_a_step_that_overflows_float16_changes_no_weight(lab, machine, monkeypatch):
    init, before, first = torch.amp.GradScaler.__init__, {}, 2.0**30
    monkeypatch.setattr(torch.amp.GradScaler, "__init__", functools.partialmethod(init, init_scale=first))
    folder = lab.new_folder()
    method = lab.train(lab.trial("supervised", 1), machine(FP16), folder, lambda method: before.update(weights(method)))
    assert all(torch.equal(value, before[name]) for name, value in weights(method).items())
    curves = read_curves(folder)
    assert curves["train/loss_scale"][0][1] == pytest.approx(first)
    assert math.isfinite(curves["train/loss"][0][1])


@pytest.mark.usefixtures("low_scale")
def test_gradients_that_never_fit_into_float16_end_the_trial(lab, machine):
    def spoil(method):
        next(p for p in method.parameters() if p.requires_grad).register_hook(lambda gradient: gradient * math.inf)

    with pytest.raises(TrainingError, match=r"gradients overflow float16 at step 10: set compute\.precision=fp32"):
        lab.train(lab.trial("supervised", 20), machine(FP16), change=spoil)


def test_a_network_is_channels_last_throughout(device):
    network = NetworkSettings.model_validate({**NETWORK, "encoder": "resnet18", "decoder": "unet", "dropout": 0.0})
    torch.manual_seed(0)
    model = build_segmenter(network, 4, 64).to(device).eval()
    images, formats = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8).to(device), {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and min(module.kernel_size) > 1:
            module.register_forward_hook(
                lambda m, i, o, name=name: formats.update({name: o.is_contiguous(memory_format=torch.channels_last)})
            )
    with torch.inference_mode():
        found = model(images)
        expected = model.to(memory_format=torch.contiguous_format)(images)
    assert len(formats) > 10
    assert [name for name, kept in formats.items() if not kept] == []
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow_on_cpu
def test_a_compiled_network_learns_alike(lab, machine, device, monkeypatch):
    if device.type == "cpu":  # traced as on a GPU, but no kernels are generated: that takes a core minutes
        traced = functools.partialmethod(nn.Module.compile, backend="aot_eager")
        monkeypatch.setattr(nn.Module, "compile", traced)
    losses = []
    for compiled in (False, True):
        folder = lab.new_folder()
        lab.train(lab.trial("supervised", 3, compile=compiled), machine(FP32), folder)
        losses.append([loss for _, loss in read_curves(folder)["train/loss"]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow_on_cpu) for each in SHIPPED]
)
def test_two_deterministic_runs_give_the_same_bits(lab, machine, name):
    with deterministic_algorithms(True):
        one, other = (lab.steps(name, machine(FP32), 2) for _ in range(2))
    assert {stage: step["digest"] for stage, step in one.items()} == {
        stage: step["digest"] for stage, step in other.items()
    }


class Alive(Callback):
    """Number of tensors that are alive, and bytes of the GPU in use, after some steps."""

    def __init__(self, *steps):
        self._steps, self.seen = steps, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step in self._steps:
            gc.collect()
            tensors = sum(isinstance(each, torch.Tensor) for each in gc.get_objects())
            self.seen.append((tensors, torch.cuda.memory_allocated() if pl_module.device.type == "cuda" else 0))


def test_memory_is_flat(lab, machine, device):
    """Not in steps that log: others hold nothing that a log would read."""
    steps = 200 if device.type == "cuda" else 20
    alive = Alive(steps // 2 + 1, steps - 2)
    lab.train(lab.trial("mean_teacher", steps), machine(FP32), watchers=[alive])
    (tensors, used), (tensors_later, used_later) = alive.seen
    assert tensors_later <= tensors + 8
    assert used_later <= used + (1 << 20)


def after(step):
    asked = itertools.count(1)
    return lambda: next(asked) >= step


@pytest.mark.parametrize("precision", [FP32, FP16])
@pytest.mark.usefixtures("low_scale")
def test_a_checkpoint_of_the_device_resumes_on_the_cpu_and_back(lab, machine, precision):
    here, there = machine(precision), machine(FP32, torch.device("cpu"))
    trial, folder, whole = lab.trial("mean_teacher", 9), lab.new_folder(), lab.folder / "whole"
    for at, done in ((here, 3), (there, 6)):
        with pytest.raises(Interrupted, match=f"stopped at step {done} of 9"):
            lab.train(trial, at, folder, stop=after(3))
        kept = read_torch(folder / LAST)
        assert ("MixedPrecision" in kept) == (at.precision == FP16)
        assert kept["global_step"] == done
    seen = []
    method = lab.train(trial, here, folder, report=seen.append)
    assert seen == [6, 7, 8, 9]
    assert (folder / FITTED).is_file()
    assert all(value.isfinite().all() for value in weights(method).values())
    lab.train(trial, there, whole)
    resumed, at_once = (read_curves(each)["train/loss"] for each in (folder, whole))
    assert [step for step, _ in resumed] == [step for step, _ in at_once] == [1, 9]
    near = 0.0 if precision == FP32 and here.device == there.device else 0.3
    assert resumed[-1][1] == pytest.approx(at_once[-1][1], rel=near, abs=0)
