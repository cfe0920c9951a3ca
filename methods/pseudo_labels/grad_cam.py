"""Grad-CAM at any depth, for all classes of a whole batch (Selvaraju et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def grad_cam(taps: Sequence[Tensor], logits: Tensor) -> tuple[Tensor, ...]:
    """Return Grad-CAM maps of all classes at all taps, without the final ReLU of Selvaraju et al.

    ``cam_k = sum over d of alpha_kd T_d``, alpha_kd = spatial mean of d logit_k / d T_d. It takes K backward passes,
    each down to the shallowest tap; the last one frees the graph down to there, and the returned maps carry no graph.
    Gradients of parameters are neither computed nor changed. Below global average pooling and a linear head the map is
    the plain CAM divided by h w.

    Samples must not depend on each other (batch norm in evaluation mode): all are differentiated at once, through the
    sum of their logits.

    Args:
        taps: maps (B, D_i, h_i, w_i) on the way to the logits, floats of any width.
        logits: (B, K), computed from the taps with gradients enabled; its graph is consumed.

    Returns:
        (B, K, h_i, w_i) float32 for each tap, detached; 0 for a class that does not depend on that tap.

    Raises:
        ValueError: wrong shapes, or a tap that is not part of the graph of the logits, so that none of them depends
            on it: a copy or a detour, whose maps of zeros would only hide the mistake.
    """
    taps = tuple(taps)
    _check(taps, logits)
    n_classes = logits.shape[1]
    slopes = [tap.new_empty((len(tap), n_classes, tap.shape[1]), dtype=torch.float32) for tap in taps]
    for k in range(n_classes):
        of_class = torch.zeros_like(logits)
        of_class[:, k] = 1
        gradients = torch.autograd.grad(logits, taps, of_class, retain_graph=k + 1 < n_classes, allow_unused=True)
        for index, gradient in enumerate(gradients):
            if gradient is None:
                raise ValueError(f"tap {index} is not part of the graph of the logits")
            slopes[index][:, k] = gradient.mean(dim=(2, 3), dtype=torch.float32)
    return tuple(_weighted(tap, slope) for tap, slope in zip(taps, slopes, strict=True))


def enlarge(cams: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate maps bilinearly, with pixel centres at half (``align_corners=False``).

    Args:
        cams: (B, K, h, w) float.
        size: height and width in pixels.

    Returns:
        (B, K, *size).
    """
    return functional.interpolate(cams, size=size, mode="bilinear", align_corners=False)


def _weighted(tap: Tensor, alpha: Tensor) -> Tensor:
    """Return the weighted sum over channels (B, K, h, w), in float32 even under autocast."""
    with torch.no_grad(), torch.autocast(tap.device.type, enabled=False):
        return torch.einsum("bkd,bdhw->bkhw", alpha, tap.detach().float())


def _check(taps: tuple[Tensor, ...], logits: Tensor) -> None:
    if logits.ndim != 2 or not taps or any(tap.ndim != 4 or len(tap) != len(logits) for tap in taps):
        shapes = [tuple(tap.shape) for tap in taps]
        raise ValueError(f"taps must be (B, D, h, w) and logits (B, K), not {shapes} and {tuple(logits.shape)}")
    for name, tensor in [("logits", logits), *((f"tap {index}", tap) for index, tap in enumerate(taps))]:
        if not tensor.requires_grad:
            raise ValueError(
                f"{name} has no graph: run the network with gradients enabled, and on images that require them "
                "if all layers before it are frozen"
            )
