"""CutMix within the whole batch (Yun et al., ICCV 2019): paste a rectangle of the next sample, with its labels."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor
from torch.nn import functional

from tissuebench.methods.api.whole_batch import following


def draw_boxes(count: int, height: int, width: int, generator: torch.Generator, area: float = 0.5) -> Tensor:
    """Draw random rectangles of roughly equal area and varying aspect ratio.

    As in the published code of ReCo (Liu et al., ICLR 2022) and ACTION: w uniform over the integers in
    (area W, W), ``h = round(area H W / w)``, the position uniform where the rectangle fits. Rounding changes the area
    by at most w / 2 px.

    Args:
        count: N.
        height: H of the images, px.
        width: W of the images, px.
        generator: source of 3 N numbers, drawn on its own device; on the CPU they do not depend on the images' device.
        area: share of the image, between 0 and 1.

    Returns:
        (N, 4) int64: x0, y0, x1, y1 in px, the ends excluded; on the generator's device.

    Raises:
        ValueError: ``area`` is out of range, or the image has no pixels.
    """
    if not 0 < area < 1 or height < 1 or width < 1:
        raise ValueError(f"area must be between 0 and 1, and images of a pixel or more: {area}, {height} x {width}")
    random = torch.rand(count, 3, generator=generator, device=generator.device, dtype=torch.float64)
    narrowest = min(int(area * width) + 1, width)
    w = narrowest + (random[:, 0] * max(width - narrowest, 1)).long()
    h = (area * height * width / w).round().long().clamp(1, height)
    x0 = (random[:, 1] * (width - w + 1)).long()
    y0 = (random[:, 2] * (height - h + 1)).long()
    return torch.stack([x0, y0, x0 + w, y0 + h], dim=1)


def boxes_to_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return a mask (N, H, W) bool, true inside the boxes (N, 4) from ``draw_boxes``; on their device."""
    x0, y0, x1, y1 = boxes[:, :, None].unbind(dim=1)
    x, y = (torch.arange(size, device=boxes.device) for size in (width, height))
    return ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None, :]


@overload
def cut_mixed(values: Tensor, mask: Tensor) -> Tensor: ...
@overload
def cut_mixed(values: tuple[Tensor, ...], mask: Tensor) -> tuple[Tensor, ...]: ...
@overload
def cut_mixed(values: Tensor | tuple[Tensor, ...], mask: Tensor) -> Tensor | tuple[Tensor, ...]: ...
def cut_mixed(values: Tensor | tuple[Tensor, ...], mask: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Replace the masked part of each sample by the next sample's, and of the last one by the first's.

    A single sample is unchanged. If the batch is spread over several processes, the sample after a process's last one
    is the first of the next process.

    Args:
        values: (N, ..., h, w) of any dtype: images, labels, confidences; or a tuple of such tensors, e.g. the feature
            maps of an encoder. For a different size, the mask is resized by nearest neighbour at pixel centres.
        mask: (N, H, W) bool, true where the next sample is pasted.

    Returns:
        New tensors of the same shapes, dtypes and memory formats.

    Raises:
        ValueError: the mask is not (N, H, W) bool.
    """
    if isinstance(values, tuple):
        return tuple(cut_mixed(value, mask) for value in values)
    if mask.ndim != 3 or mask.dtype != torch.bool or values.ndim < 3 or len(values) != len(mask):
        shapes = f"{tuple(mask.shape)} {mask.dtype} and {tuple(values.shape)}"
        raise ValueError(f"mask must be (N, H, W) bool and values (N, ..., h, w), not {shapes}")
    size = values.shape[-2:]
    if mask.shape[-2:] != size:
        mask = functional.interpolate(mask[:, None].float(), size=tuple(size), mode="nearest-exact")[:, 0] > 0
    mask = mask.to(values.device).view(len(mask), *[1] * (values.ndim - 3), *size)
    # ``where`` adopts the memory format of its first tensor argument, and ``following`` preserves it.
    return torch.where(mask, following(values), values)
