"""Pictures of what a predictor of noise knows of tissue; the sampler is that of diffusers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tissuebench.methods.denoising.schedule import NoiseSchedule

Predictor = Callable[[Tensor, Tensor], Tensor]
"""Noise of noisy images (B, 3, H, W) at steps (B,)."""


def denoised(predictor: Predictor, schedule: NoiseSchedule, noisy: Tensor, t: Tensor) -> Tensor:
    """The image that the predicted noise leaves, in one step: ``(x_t - sqrt(1 - abar_t) eps_hat) / sqrt(abar_t)``.

    Args:
        predictor: of noise.
        schedule: that the images were noised by.
        noisy: x_t, (B, 3, H, W).
        t: (B,) int64.

    Returns:
        (B, 3, H, W) float32, cut off outside -1..1.
    """
    abar = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
    noise = predictor(noisy, t).float()
    return ((noisy - (1 - abar).sqrt() * noise) / abar.sqrt()).clamp(-1, 1)


def sampled(predictor: Predictor, schedule: NoiseSchedule, noise: Tensor, n_steps: int = 50) -> Tensor:
    """Images drawn from pure noise with DDIM (Song et al. 2021), without noise of its own.

    Args:
        predictor: of noise.
        schedule: that it was trained with.
        noise: (B, 3, H, W), standard normal.
        n_steps: evenly spaced over those of the schedule, its last one first; a divisor of their number.

    Returns:
        (B, 3, H, W) float32 in -1..1.

    Raises:
        ValueError: no divisor; the last of the steps would leave noise.
    """
    if n_steps < 1 or len(schedule.betas) % n_steps:
        raise ValueError(f"{len(schedule.betas)} steps cannot be covered by {n_steps} equal strides")
    from diffusers import DDIMScheduler  # seconds, and few who import this file draw samples

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
