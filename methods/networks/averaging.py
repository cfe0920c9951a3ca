"""Averages over the cells of a grid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def averaged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (B, C, h, w) averaged over a grid of cells, (B, C, *size), as ``adaptive_avg_pool2d``.

    Its gradient is summed in varying order on GPUs; where deterministic algorithms are asked for, the average is a
    product of matrices.
    """
    if maps.is_cuda and torch.are_deterministic_algorithms_enabled():
        return averaged_by_product(maps, size)
    return functional.adaptive_avg_pool2d(maps, size)


def averaged_by_product(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the same as a product of matrices."""
    rows, columns = (_shares(cells, side).to(maps) for cells, side in zip(size, maps.shape[-2:], strict=True))
    return rows @ maps @ columns.T


def _shares(cells: int, side: int) -> Tensor:
    """Return what each pixel adds to each cell, (cells, side); neighbouring cells overlap where it is no multiple."""
    first = torch.arange(cells) * side // cells
    last = -(-(torch.arange(cells) + 1) * side // cells)
    pixels = torch.arange(side)
    inside = ((pixels >= first[:, None]) & (pixels < last[:, None])).double()
    return inside / inside.sum(dim=1, keepdim=True)
