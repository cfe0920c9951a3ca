"""Noise schedules and the noise-prediction loss of GenSelfDiff-HIS, stage A.

Purma et al., IEEE Trans. Med. Imaging 2024; diffusion: Ho et al. 2020; weights: Choi et al. 2022 (P2).
Notation: abar_t = product of (1 - beta_s) over s <= t; steps t are counted from 0.
"""

from __future__ import annotations

import math
from enum import StrEnum

import torch
from torch import Tensor, distributed, nn

from tissuebench.methods.losses.pooling import pooled

_FIRST_BETA, _LAST_BETA = 1e-4, 0.02
_COSINE_OFFSET = 0.008
_COSINE_BETAS = (1e-4, 0.9999)


class ScheduleKind(StrEnum):
    """Shape of beta over the steps; GenSelfDiff-HIS trains with ``quadratic``.

    With u from 0 to 1 over the steps and a, b = 1e-4, 0.02: ``quadratic`` (sqrt a + u (sqrt b - sqrt a))^2; ``linear``
    a + u (b - a) (Ho et al. 2020); ``sigmoid`` a + (b - a) / (1 + exp(6 - 12 u)); ``cosine`` the betas, clipped to
    1e-4..0.9999, that give abar ~ cos^2(pi/2 (v + 0.008) / 1.008) with v = (t + 1) / T (Nichol and Dhariwal 2021).
    """

    QUADRATIC = "quadratic"
    LINEAR = "linear"
    COSINE = "cosine"
    SIGMOID = "sigmoid"


class Reduction(StrEnum):
    """Reduction of the per-sample losses: their mean (recommended), or their sum as in the published code."""

    MEAN = "mean"
    SUM = "sum"


class NoiseSchedule(nn.Module):
    """Noise schedule: beta and its derived quantities for each of T steps.

    Everything is computed in float64 and stored in float32, in buffers that move with the module but are not part of
    checkpoints.

    Args:
        kind: shape of beta.
        n_steps: T. The end points of beta do not depend on it: with far fewer than the published 1000 steps, the image
            is still visible through the noise at the last step (except with ``cosine``).

    Attributes:
        betas: (T,) float32.
        alphas_cumprod: (T,) float32, abar.

    Raises:
        ValueError: fewer than 2 steps.

    Examples:
        >>> schedule = NoiseSchedule()
        >>> schedule.noised(torch.zeros(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([0, 999])).shape
        torch.Size([2, 3, 8, 8])
    """

    betas: Tensor
    alphas_cumprod: Tensor
    _signal: Tensor
    _noise: Tensor
    _ratio: Tensor

    def __init__(self, kind: ScheduleKind = ScheduleKind.QUADRATIC, n_steps: int = 1000) -> None:
        super().__init__()
        if n_steps < 2:
            raise ValueError(f"a schedule has at least 2 steps, not {n_steps}")
        betas = _betas(kind, n_steps)
        abar = (1 - betas).cumprod(dim=0)
        # 1 - abar is computed before rounding to float32: 1 - abar_0 would lose half of its digits
        arrays = {
            "betas": betas,
            "alphas_cumprod": abar,
            "_signal": abar.sqrt(),
            "_noise": (1 - abar).sqrt(),
            "_ratio": abar / (1 - abar),
        }
        for name, values in arrays.items():
            self.register_buffer(name, values.float(), persistent=False)

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return ``sqrt(abar_t) x0 + sqrt(1 - abar_t) noise``, the noisy image at step t.

        Args:
            x0: (B, C, H, W) float, in -1..1 as published.
            noise: (B, C, H, W), standard normal.
            t: (B,) int64 in 0..T-1.

        Returns:
            (B, C, H, W), at least float32.

        Raises:
            ValueError: shapes do not match.
        """
        if x0.ndim != 4 or noise.shape != x0.shape or t.shape != x0.shape[:1]:
            shapes = f"{tuple(x0.shape)}, {tuple(noise.shape)} and {tuple(t.shape)}"
            raise ValueError(f"x0 and noise must be (B, C, H, W) and t (B,), not {shapes}")
        return self._signal[t].view(-1, 1, 1, 1) * x0 + self._noise[t].view(-1, 1, 1, 1) * noise

    def signal_to_noise(self, t: Tensor) -> Tensor:
        """Return ``abar_t / (1 - abar_t)``, float32 of the shape of t (int64 in 0..T-1)."""
        return self._ratio[t]

    def weights(self, t: Tensor, gamma: float = 1.0, k: float = 1.0) -> Tensor:
        """Return the P2 weights ``1 / (k + SNR_t)^gamma`` (Choi et al. 2022), which favour steps with much noise.

        With the published k = gamma = 1 this is 1 - abar_t; gamma = 0 weights all steps equally.

        Args:
            t: int64 in 0..T-1, of any shape.
            gamma: how strongly steps with little noise are down-weighted.
            k: bounds the weight of pure noise to k^-gamma; positive.

        Returns:
            float32 of the shape of t.
        """
        return (k + self.signal_to_noise(t)) ** -gamma


def denoising_loss(predicted: Tensor, noise: Tensor, weights: Tensor, reduction: Reduction = Reduction.MEAN) -> Tensor:
    """Weighted squared error of the predicted noise.

    ``mean``: ``1/B sum over n of w_n mean over C, H, W of (eps - eps_hat)^2``. ``sum``: the same without the 1/B, as
    the published code returns it; Adam is barely affected, but runs with different batch sizes are not comparable.

    B and the sum refer to the whole batch, possibly spread over several processes: averaging the gradients over the
    processes gives the gradient of the loss.

    Args:
        predicted: eps_hat, (B, C, H, W); evaluated in float32 or wider.
        noise: eps, (B, C, H, W).
        weights: w, (B,), from ``NoiseSchedule.weights`` at the steps of the samples.
        reduction: ``mean`` or ``sum``.

    Returns:
        () of the widest of the dtypes, at least float32.

    Raises:
        ValueError: shapes do not match.

    Examples:
        >>> noise, weights = torch.randn(2, 3, 8, 8), torch.ones(2)
        >>> denoising_loss(noise, noise, weights).item()
        0.0
    """
    if predicted.ndim != 4 or noise.shape != predicted.shape or weights.shape != predicted.shape[:1]:
        shapes = f"{tuple(predicted.shape)}, {tuple(noise.shape)} and {tuple(weights.shape)}"
        raise ValueError(f"predicted and noise must be (B, C, H, W) and weights (B,), not {shapes}")
    predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
    total = (weights * (noise - predicted).square().mean(dim=(1, 2, 3))).sum()
    if reduction is Reduction.MEAN:
        return pooled(total, len(predicted))
    if distributed.is_available() and distributed.is_initialized():
        return total * distributed.get_world_size()
    return total


def _betas(kind: ScheduleKind, n_steps: int) -> Tensor:
    """Return the betas (T,) float64."""

    def between(first: float, last: float) -> Tensor:
        return torch.linspace(first, last, n_steps, dtype=torch.float64)

    match kind:
        case ScheduleKind.QUADRATIC:
            return between(math.sqrt(_FIRST_BETA), math.sqrt(_LAST_BETA)).square()
        case ScheduleKind.LINEAR:
            return between(_FIRST_BETA, _LAST_BETA)
        case ScheduleKind.SIGMOID:
            return _FIRST_BETA + (_LAST_BETA - _FIRST_BETA) * between(-6, 6).sigmoid()
        case ScheduleKind.COSINE:
            v = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)
            abar = (math.pi / 2 * (v + _COSINE_OFFSET) / (1 + _COSINE_OFFSET)).cos().square()
            return (1 - abar[1:] / abar[:-1]).clamp(*_COSINE_BETAS)
