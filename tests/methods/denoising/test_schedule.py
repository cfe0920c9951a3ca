"""Noise schedules and the denoising loss: golden values, properties."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tissuebench.methods.denoising.schedule import NoiseSchedule, Reduction, ScheduleKind, denoising_loss

GOLDEN = Path(__file__).parents[2] / "golden"
STEPS = torch.arange(1000)


def golden(name):
    with np.load(GOLDEN / f"diffusion_{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def close(actual, expected, atol=1e-6, rtol=0.0):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, check_dtype=False)


@pytest.fixture(scope="module")
def arrays():
    return golden("schedule")


@pytest.mark.parametrize("kind", list(ScheduleKind))
def test_golden_of_each_kind(arrays, kind):
    schedule = NoiseSchedule(kind)
    assert schedule.betas.dtype == schedule.alphas_cumprod.dtype == torch.float32
    # the golden cosine is a difference of float32 ratios, of which the last steps keep few digits
    close(schedule.betas, arrays[f"betas_{kind}"], atol=1e-4 if kind is ScheduleKind.COSINE else 1e-8)
    close(schedule.alphas_cumprod, arrays[f"alphas_cumprod_{kind}"])


def test_golden_of_what_follows_from_the_published_one(arrays):
    schedule = NoiseSchedule()
    betas, abar = schedule.betas.double(), schedule.alphas_cumprod.double()
    before = torch.cat([torch.ones(1), abar[:-1]])
    close(1 - betas, arrays["quad_alphas"])
    close((1 - betas).rsqrt(), arrays["quad_sqrt_recip_alphas"])
    close(abar, arrays["quad_alphas_cumprod"])
    close(before, arrays["quad_alphas_cumprod_prev"])
    close(betas * (1 - before) / (1 - abar), arrays["quad_posterior_variance"], atol=1e-5)
    pixel = torch.ones(1000, 1, 1, 1)
    close(schedule.noised(pixel, 0 * pixel, STEPS).flatten(), arrays["quad_sqrt_alphas_cumprod"])
    close(schedule.noised(0 * pixel, pixel, STEPS).flatten(), arrays["quad_sqrt_one_minus_alphas_cumprod"])
    # of 1 - abar, which is 1e-4 in the first step, the golden float32 has three digits
    close(schedule.signal_to_noise(STEPS), arrays["quad_snr"], atol=0, rtol=1e-3)
    close(schedule.weights(STEPS), arrays["quad_p2_weight_k1_g1"])


def test_golden_loss():
    arrays = golden("qsample_loss")
    schedule, t = NoiseSchedule(), arrays["t"]
    close(schedule.noised(arrays["x0"], arrays["noise"], t), arrays["x_t"], atol=1e-5)
    predicted, weights = arrays["toy_pred"].requires_grad_(), schedule.weights(t)
    total = denoising_loss(predicted, arrays["noise"], weights, Reduction.SUM)
    close(total, arrays["p2_loss_batch_sum"])
    close(torch.autograd.grad(total, predicted)[0], arrays["grad_pred_of_batch_sum"])
    close(denoising_loss(predicted, arrays["noise"], weights), arrays["p2_loss_batch_mean"])
    for n in range(4):
        one = slice(n, n + 1)
        close(denoising_loss(predicted[one], arrays["noise"][one], weights[one]), arrays["p2_loss_per_sample"][n])
        plain = denoising_loss(predicted[one], arrays["noise"][one], schedule.weights(t[one], gamma=0))
        close(plain, arrays["plain_mse_per_sample"][n])


def test_published_checkpoints():
    schedule = NoiseSchedule()
    assert schedule.betas[0].item() == pytest.approx(1e-4) and schedule.betas[-1].item() == pytest.approx(0.02)
    steps = schedule.betas.double().sqrt().diff()
    close(steps, steps.mean().expand_as(steps), atol=1e-8)
    assert schedule.alphas_cumprod[499].item() == pytest.approx(0.333188, abs=1e-6)
    assert schedule.alphas_cumprod[999].item() == pytest.approx(7.3341e-4, abs=1e-8)


@pytest.mark.parametrize("kind", list(ScheduleKind))
@pytest.mark.parametrize("n_steps", [2, 50, 1000])
def test_signal_only_falls(kind, n_steps):
    schedule = NoiseSchedule(kind, n_steps)
    t = torch.arange(n_steps)
    assert schedule.betas.shape == schedule.alphas_cumprod.shape == (n_steps,)
    assert ((schedule.betas > 0) & (schedule.betas < 1)).all()
    assert (schedule.alphas_cumprod.diff() < 0).all() and (schedule.alphas_cumprod > 0).all()
    assert (schedule.signal_to_noise(t).diff() < 0).all()
    weights = schedule.weights(t)
    assert (weights.diff() >= 0).all() and weights[0] < weights[-1]
    close(weights, 1 - schedule.alphas_cumprod)


@pytest.mark.parametrize(("gamma", "k"), [(0.0, 1.0), (0.5, 1.0), (1.0, 0.25), (2.0, 3.0)])
def test_weights_are_those_of_p2(gamma, k):
    schedule = NoiseSchedule()
    ratio = schedule.signal_to_noise(STEPS)
    close(schedule.weights(STEPS, gamma, k), 1 / (k + ratio) ** gamma, atol=0, rtol=1e-5)
    assert (schedule.weights(STEPS, gamma, k) <= k**-gamma).all()


def test_variance_is_kept():
    """Independent of t, noised unit noise is unit noise; what x0 = 0 leaves has variance 1 - abar."""
    schedule, generator = NoiseSchedule(), torch.Generator().manual_seed(1)
    t = torch.tensor([0, 300, 999])
    x0, noise = (torch.randn(3, 4, 100, 100, generator=generator) for _ in range(2))
    ones = torch.ones(3)
    close(schedule.noised(x0, noise, t).var(dim=(1, 2, 3)), ones, atol=0.03)
    alone = schedule.noised(torch.zeros_like(x0), noise, t).var(dim=(1, 2, 3))
    close(alone / (1 - schedule.alphas_cumprod[t]), ones, atol=0.03)
    close(schedule.noised(x0, noise * 0, t), x0 * schedule.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1))


def test_images_of_narrow_types_are_noised_in_float32():
    schedule, image = NoiseSchedule(), torch.full((1, 3, 4, 4), 0.5, dtype=torch.bfloat16)
    seen = schedule.noised(image, torch.ones_like(image), torch.tensor([0]))
    assert seen.dtype == torch.float32
    close(seen, torch.full_like(seen, 0.5 * 0.9999**0.5 + 0.01))


def test_is_in_no_checkpoint_but_moves_with_its_module():
    schedule = NoiseSchedule()
    assert not schedule.state_dict()
    assert {buffer.device.type for buffer in schedule.to("meta").buffers()} == {"meta"}
    assert not list(schedule.parameters())


@examples(25)
@given(st.integers(0, 2**31), st.integers(1, 5))
def test_duplicating_a_batch_doubles_the_sum_and_leaves_the_mean(seed, n):
    generator = torch.Generator().manual_seed(seed)
    predicted, noise = (torch.randn(n, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    weights = torch.rand(n, generator=generator, dtype=torch.float64)
    twice = (torch.cat([part, part]) for part in (predicted, noise, weights))
    arguments = predicted, noise, weights
    twice = tuple(twice)
    total, mean = denoising_loss(*arguments, Reduction.SUM), denoising_loss(*arguments)
    close(denoising_loss(*twice, Reduction.SUM), 2 * total, atol=1e-12)
    close(denoising_loss(*twice), mean, atol=1e-12)
    close(total, n * mean, atol=1e-12)
    expected = sum(weights[i] * ((predicted[i] - noise[i]) ** 2).mean() for i in range(n))
    close(total, expected, atol=1e-12)
    assert denoising_loss(noise, noise, weights) == 0


def test_loss_is_evaluated_in_float32_at_least():
    generator = torch.Generator().manual_seed(2)
    predicted, noise = (torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2))
    narrow, weights = predicted.bfloat16(), torch.tensor([0.5, 0.25])
    loss = denoising_loss(narrow, noise.bfloat16(), weights)
    assert loss.dtype == torch.float32 and loss.shape == ()
    assert torch.equal(loss, denoising_loss(narrow.float(), noise.bfloat16().float(), weights))
    assert denoising_loss(predicted.double(), noise, weights).dtype == torch.float64


def test_what_does_not_fit_is_refused():
    image, t = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
    schedule = NoiseSchedule()
    for arguments in (
        (image, image[:, :1], t),
        (image, image, t[:1]),
        (image, image, t[:, None]),
        (image[0],) * 2 + (t,),
    ):
        with pytest.raises(ValueError, match="x0 and noise"):
            schedule.noised(*arguments)
        with pytest.raises(ValueError, match="predicted and noise"):
            denoising_loss(arguments[0], arguments[1], arguments[2].float())
    with pytest.raises(ValueError, match="at least 2 steps"):
        NoiseSchedule(n_steps=1)
