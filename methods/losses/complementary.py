"""Complementary-label losses: the classes that a diagnosis rules out, as a loss on every pixel of the case.

Notation: logits z, p = softmax(z) over K classes; S = classes excluded for the sample, A = all others; T = classes that
some diagnosis can exclude (S is a subset of T). All losses are maps (B, H, W), evaluated in float32 by
``exclusion_loss``, exact and finite for any finite logits, without an epsilon. Sets of classes may be on the CPU, where
the host can look at them, whatever the device of the logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tissuebench.methods.losses.exclusion import exclusion_loss, probability_of
from tissuebench.methods.losses.pooling import pooled

_OFFICIAL_EPS = 1e-5


def set_wise(logits: Tensor, excluded: Tensor, gamma: float) -> Tensor:
    """Set-wise exclusion: ``-(1 - q)^gamma log q`` with q = sum of p over A = 1 - sum of p over S.

    For gamma = 0 and one excluded class it is NLNL's ``-log(1 - p)`` (Kim et al. 2019); for general S it is the LOG
    loss of Feng et al. 2020 up to the factor (K-1)/|S|. With d = lse(z[S]) - lse(z[A]) it equals
    ``sigmoid(d)^gamma softplus(d)``.

    Args:
        logits: (B, K, H, W).
        excluded: (B, K) bool, S of each sample.
        gamma: focal exponent; 0 gives the plain log loss.

    Returns:
        (B, H, W) float32, 0 where S is empty.

    Raises:
        ValueError: S contains every class; see ``exclusion_loss``.

    Examples:
        >>> logits, excluded = torch.zeros(1, 4, 8, 8), torch.tensor([[False, False, True, True]])
        >>> round(set_wise(logits, excluded, gamma=0.0).mean().item(), 4)  # log 2
        0.6931
    """
    return exclusion_loss(logits.float(), excluded, ~excluded, gamma)


def conditional_set_wise(logits: Tensor, excluded: Tensor, dependent: Tensor, gamma: float) -> Tensor:
    """Set-wise exclusion inside T, weighted by the detached probability of T (this project's form, not published).

    With d = lse(z[S]) - lse(z[T without S]) and P_T = sum of p over T:
    ``stopgrad(P_T) sigmoid(d)^gamma softplus(d)``. It reads the diagnosis as "if this pixel is one of the
    diagnosis-dependent classes, it is none of S": classes outside T (stroma, glass) get exactly zero gradient, so they
    neither absorb the probability mass that S gives up nor are penalised for being predicted. With T = all classes it
    equals ``set_wise``.

    Args:
        logits: (B, K, H, W).
        excluded: (B, K) bool, S of each sample, a subset of T. Samples with S = T carry no information inside T
            and give 0.
        dependent: (K,) bool, T.
        gamma: focal exponent.

    Returns:
        (B, H, W) float32.

    Examples:
        >>> logits, dependent = torch.zeros(1, 4, 8, 8), torch.tensor([False, False, True, True])
        >>> excluded = torch.tensor([[False, False, False, True]])
        >>> round(conditional_set_wise(logits, excluded, dependent, gamma=0.0).mean().item(), 4)  # 1/2 log 2
        0.3466
    """
    logits = logits.float()
    allowed = dependent & ~excluded
    informative = allowed.any(dim=1, keepdim=True)
    weight = probability_of(logits, dependent)
    return weight * exclusion_loss(logits, excluded & informative, torch.where(informative, allowed, dependent), gamma)


def forward_corrected(logits: Tensor, observation: Tensor, gamma: float, official_clip: bool = False) -> Tensor:
    """Forward correction: ``-(1 - q)^gamma log q`` with q = sum over n of P(label | Y = n) p_n.

    gamma = 0 is Yu et al. 2018; the focal factor is that of Haegele et al.'s published loss. For one complementary
    label ybar, ``observation`` is the column ``Q[:, ybar]`` of the transition matrix Q[i, j] = P(ybar = j | Y = i).

    Args:
        logits: (B, K, H, W).
        observation: (B, K) in 0..1, probability of observing the sample's label under each true class.
        gamma: focal exponent; 2 in the published loss.
        official_clip: clip p to [1e-5, 1 - 1e-5] before the sum as the published code does. It caps the loss near
            11.5 and removes the gradient of the most wrong pixels; without it the loss follows the formula exactly.

    Returns:
        (B, H, W) float32.

    Examples:
        >>> logits, observation = torch.zeros(1, 4, 8, 8), torch.tensor([[0.5, 0.5, 1.0, 0.0]])
        >>> round(forward_corrected(logits, observation, gamma=0.0).mean().item(), 4)  # log 2
        0.6931
    """
    logits = logits.float()
    if official_clip:
        p = logits.softmax(dim=1).clamp(_OFFICIAL_EPS, 1 - _OFFICIAL_EPS)
        q = (p * observation[:, :, None, None].to(p.device, non_blocking=True)).sum(dim=1)
        return -((1 - q) ** gamma) * q.log()
    observation = observation.float()
    return exclusion_loss(logits, 1 - observation, observation, gamma)


def pooled_mean(loss: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over all valid pixels of the whole batch; a graph-connected 0 if there are none."""
    weights = valid.to(loss.dtype)
    return pooled((loss * weights).sum(), weights.sum())
