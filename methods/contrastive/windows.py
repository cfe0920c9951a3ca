"""Square windows that slide over maps."""

from __future__ import annotations

import torch
from torch import Tensor


def window_offsets(size: int, window: int, stride: int, cover: bool = False) -> Tensor:
    """Top left corners of the windows of a square map, (W, 2) int64: row, column; columns change first.

    Per axis ``range(0, size - window, stride)``, as published by ACTION (You et al., IPMI 2023): of 256 pixels, windows
    of 64 with stride 32 leave the last 32 rows and columns out, and 36 remain.

    Args:
        size: edge of the map.
        window: edge of a window.
        stride: between neighbours.
        cover: the offset ``size - window`` as well, so every pixel is in a window; 49 remain.

    Raises:
        ValueError: there is no window, or the stride does not lead to the one that ends at the border.
    """
    axis = torch.arange(_along(size, window, stride, cover)) * stride
    return torch.cartesian_prod(axis, axis)


def windows(maps: Tensor, window: int, stride: int, cover: bool = False) -> Tensor:
    """The windows (B, W, C, window, window) of maps (B, C, H, W'), in the order of ``window_offsets``; a copy.

    Raises:
        ValueError: as ``window_offsets``, for one of the sides.
    """
    rows, columns = (_along(side, window, stride, cover) for side in maps.shape[-2:])
    cut = maps.unfold(2, window, stride)[:, :, :rows].unfold(3, window, stride)[:, :, :, :columns]
    return cut.movedim(1, 3).flatten(1, 2)


def _along(size: int, window: int, stride: int, cover: bool) -> int:
    """How many windows one axis has."""
    if window < 1 or stride < 1:
        raise ValueError(f"window and stride must be positive, not {window} and {stride}")
    if cover and (size - window) % stride:
        raise ValueError(f"windows of {window} with stride {stride} do not end at the border of a side of {size}")
    count = len(range(0, size - window + cover, stride))
    if count == 0:
        raise ValueError(f"a side of {size} has no window of {window}{'' if cover else ', the last being left out'}")
    return count
