"""Denoising: removing noise in one step, and sampling images in several."""

import pytest
import torch

from tests.methods.denoising.denoisers import Oracle, pictures
from tissuebench.methods.denoising.sampling import denoised, sampled
from tissuebench.methods.denoising.schedule import NoiseSchedule, ScheduleKind


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
