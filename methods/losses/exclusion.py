"""Exclusion of classes as one fused function: its value and, in the same pass over the logits, its gradient.

Notation: u and v are non-negative weights of the K classes, and

    d = log(sum over k of u_k e^{z_k}) - log(sum over k of v_k e^{z_k})

the log-odds of what u weighs against what v weighs. The loss ``sigmoid(d)^gamma softplus(d)`` is
``-(1 - q)^gamma log q`` with ``q = sigmoid(-d)``. Each sum is shifted by its own largest logit, so that neither
underflows however far apart the two are.

Autograd would keep ten maps of the size of the logits. Here a CPU works on one sample after another, which fits into
its cache, and reads only the classes with a weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny
_SMALL = 1e-30
"""Sums below it, relative to the largest term, are shifted by their own largest logit."""


def exclusion_loss(logits: Tensor, against: Tensor, towards: Tensor, gamma: float) -> Tensor:
    """Return ``sigmoid(d)^gamma softplus(d)``, d the log-odds of ``against`` over ``towards``.

    Within 1e-7 plus float32's relative error of the exact value, and finite for any finite logits. It can be
    differentiated once.

    Args:
        logits: z, (B, K, H, W) float32.
        against: u, (B, K), 0 or more, there or on the CPU; a sample whose u are all 0 gives 0, without a gradient.
        towards: v, (B, K), 0 or more.
        gamma: focal exponent, 0 or more.

    Returns:
        (B, H, W) float32.

    Raises:
        ValueError: all v of a sample are 0; not checked for weights on a GPU, as reading them would wait for it.

    Examples:
        >>> logits, against = torch.zeros(1, 4, 8, 8), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        >>> round(exclusion_loss(logits, against, 1 - against, gamma=0.0).mean().item(), 4)  # log 2
        0.6931
    """
    if towards.device.type == "cpu" and not towards.any(dim=1).all():
        raise ValueError("all classes of a sample are excluded; drop such samples")
    against, towards = (weights.to(logits.device, logits.dtype, non_blocking=True) for weights in (against, towards))
    loss: Tensor = _Exclusion.apply(logits, against, towards, gamma)
    return loss


@torch.no_grad()
def probability_of(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the probability of a set of classes, (B, H, W), without gradient.

    Args:
        logits: (B, K, H, W) float32.
        classes: (K,) bool, there or on the CPU.
    """
    chosen = classes.view(1, -1, 1, 1).to(logits.device, non_blocking=True)
    parts = torch.split(logits, 1) if logits.device.type == "cpu" and len(logits) else (logits,)
    return torch.cat([(part.softmax(dim=1) * chosen).sum(dim=1) for part in parts])


class _Exclusion(torch.autograd.Function):
    """The loss of ``exclusion_loss``; its derivative by the logits is computed along with it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, against: Tensor, towards: Tensor, gamma: float) -> Tensor:  # noqa: ANN401 - torch's context
        weights = torch.stack([against, towards])
        if logits.device.type != "cpu":
            loss, slope = _of_batch(logits, weights, gamma)
        else:
            loss, slope = logits.new_zeros(len(logits), *logits.shape[2:]), torch.empty_like(logits)
            for number, sample in enumerate(logits):
                own = weights[:, number]
                classes = _classes_with_weight(own)
                if len(sample[classes]) < len(sample) or not own[0].any():
                    slope[number] = 0
                if own[0].any():
                    part = slope[number, classes]  # a view if the classes are consecutive
                    loss[number] = _of_sample(sample[classes], own[:, classes], gamma, part)
                    if isinstance(classes, list):
                        slope[number, classes] = part
        ctx.save_for_backward(slope)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (slope,) = ctx.saved_tensors
        return slope * gradient[:, None], None, None, None


def _classes_with_weight(weights: Tensor) -> slice | list[int]:
    """Return the classes of a sample that have a weight, (2, K); a slice, if they are consecutive, copies nothing."""
    classes = [number for number, pair in enumerate(weights.T.tolist()) if any(pair)]
    first, last = classes[0], classes[-1]
    return slice(first, last + 1) if last - first + 1 == len(classes) else classes


def _of_sample(logits: Tensor, weights: Tensor, gamma: float, slope: Tensor) -> Tensor:
    """Return the loss (H, W) of one sample, (k, H, W), with weights (2, k); overwrite ``slope`` with its derivative.

    Both sums share the largest logit as their shift, unless one of them would lose accuracy by it.
    """
    terms = (logits - logits.amax(dim=0)).exp_()
    sums = (weights @ terms.flatten(1)).view(2, *logits.shape[1:])
    if sums.min() < _SMALL:
        loss, by_logits = _of_batch(logits[None], weights[:, None], gamma)
        slope.copy_(by_logits[0])
        return loss[0]
    value, by_d = _focal((sums[0] / sums[1]).log_(), gamma)
    by_sums = sums.reciprocal_().mul_(by_d)
    by_sums[1].neg_()
    torch.mul((weights.T @ by_sums.flatten(1)).view_as(terms), terms, out=slope)
    return value


def _of_batch(logits: Tensor, weights: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return loss (B, H, W) and derivative (B, K, H, W) of a batch with weights (2, B, K); each sum has its shift."""
    terms, sums, largest = [], [], []
    for own in weights[..., None, None]:
        shifted = torch.where(own > 0, logits, torch.finfo(logits.dtype).min)
        largest.append(shifted.amax(dim=1))
        terms.append((shifted - largest[-1][:, None]).exp_().mul_(own))
        sums.append(terms[-1].sum(dim=1).clamp(min=_TINY))
    d = largest[0] - largest[1] + sums[0].log() - sums[1].log()
    value, by_d = _focal(d, gamma)
    slope = terms[0].mul_((by_d / sums[0])[:, None]) - terms[1].mul_((by_d / sums[1])[:, None])
    return value, slope


def _focal(d: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return ``sigmoid(d)^gamma softplus(d)`` and its derivative by d."""
    tail = d.abs().neg_().exp_()
    softplus = tail.add_(1).log_().add_(d.clamp(min=0))  # log1p would be exact below 1e-7, and ten times slower
    sigmoid = d.sigmoid_()
    if gamma == 0:
        return softplus, sigmoid
    focus = sigmoid**gamma
    rest = (1 - sigmoid).mul_(softplus).mul_(gamma).add_(sigmoid)
    return softplus.mul_(focus), focus.mul_(rest)
