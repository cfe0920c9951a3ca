"""Square sliding windows over maps."""

from __future__ import annotations

import torch
from torch import Tensor


def window_offsets(size: int, window: int, stride: int, cover: bool = False) -> Tensor:
    """Return the top left corners of the windows of a square map, (W, 2) int64: row, column; column varies fastest.

    Per axis ``range(0, size - window, stride)``, as published by ACTION (You et al., IPMI 2023): on 256 pixels, windows
    of 64 with stride 32 leave out the last 32 rows and columns, so there are 36 windows.

    Args:
        size: edge length of the map.
        window: edge length of a window.
        stride: distance between neighbouring windows.
        cover: also include the offset ``size - window``, so that every pixel is in a window (49 in the example).

    Raises:
        ValueError: there is no window, or ``cover`` is set and the stride does not reach the border exactly.
    """
    axis = torch.arange(_along(size, window, stride, cover)) * stride
    return torch.cartesian_prod(axis, axis)


def windows(maps: Tensor, window: int, stride: int, cover: bool = False) -> Tensor:
    """Return the windows (B, W, C, window, window) of maps (B, C, H, W') in the order of ``window_offsets``; a copy.

    Raises:
        ValueError: as for ``window_offsets``, for either side.
    """
    rows, columns = (_along(side, window, stride, cover) for side in maps.shape[-2:])
    cut = maps.unfold(2, window, stride)[:, :, :rows].unfold(3, window, stride)[:, :, :, :columns]
    return cut.movedim(1, 3).flatten(1, 2)


def _along(size: int, window: int, stride: int, cover: bool) -> int:
    """Return the number of windows along one axis."""
    if window < 1 or stride < 1:
        raise ValueError(f"window and stride must be positive, not {window} and {stride}")
    if cover and (size - window) % stride:
        raise ValueError(f"windows of {window} with stride {stride} do not end at the border of a side of {size}")
    count = len(range(0, size - window + cover, stride))
    if count == 0:
        raise ValueError(f"a side of {size} has no window of {window}{'' if cover else ', the last being left out'}")
    return count
