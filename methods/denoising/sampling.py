"""Denoised and sampled images that show what a noise predictor has learned; the sampler comes from diffusers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tissuebench.methods.denoising.schedule import NoiseSchedule

Predictor = Callable[[Tensor, Tensor], Tensor]
"""Function that predicts the noise of noisy images (B, 3, H, W) at steps (B,)."""


def denoised(predictor: Predictor, schedule: NoiseSchedule, noisy: Tensor, t: Tensor) -> Tensor:
    """Return the one-step estimate of the clean image, ``(x_t - sqrt(1 - abar_t) eps_hat) / sqrt(abar_t)``.

    Args:
        predictor: predictor of the noise.
        schedule: schedule that the images were noised with.
        noisy: x_t, (B, 3, H, W).
        t: (B,) int64.

    Returns:
        (B, 3, H, W) float32, clipped to -1..1.
    """
    abar = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
    noise = predictor(noisy, t).float()
    return ((noisy - (1 - abar).sqrt() * noise) / abar.sqrt()).clamp(-1, 1)


def sampled(predictor: Predictor, schedule: NoiseSchedule, noise: Tensor, n_steps: int = 50) -> Tensor:
    """Draw images from pure noise with deterministic DDIM (Song et al. 2021).

    Args:
        predictor: predictor of the noise.
        schedule: schedule that it was trained with.
        noise: (B, 3, H, W), standard normal.
        n_steps: number of sampling steps, evenly spaced over those of the schedule, starting with the last one; must
            divide their number.

    Returns:
        (B, 3, H, W) float32 in -1..1.

    Raises:
        ValueError: ``n_steps`` is not a divisor; the last step would leave noise.
    """
    if n_steps < 1 or len(schedule.betas) % n_steps:
        raise ValueError(f"{len(schedule.betas)} steps cannot be covered by {n_steps} equal strides")
    from diffusers import DDIMScheduler  # takes seconds to import, and is rarely needed

    scheduler = DDIMScheduler(
        num_train_timesteps=len(schedule.betas),
        trained_betas=schedule.betas.cpu().numpy(),
        clip_sample=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(n_steps, device=noise.device)
    images = noise
    for step in scheduler.timesteps:
        predicted = predictor(images, torch.full((len(images),), int(step), device=noise.device)).float()
        images = scheduler.step(predicted, step, images).prev_sample
    return images.clamp(-1, 1)
