"""One forward pass for the tiles of several streams."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tissuebench.datasets.types import TileBatch
from tissuebench.methods.api.whole_batch import samples_at


def forward_together(network: nn.Module, *streams: TileBatch) -> tuple[Tensor, ...]:
    """Return the logits of each stream's tiles, from a single pass of all of them if the network allows it.

    It does unless batch statistics would mix the streams, which are then passed one after the other. Dropout draws for
    the tiles of all streams, in their order.

    Args:
        network: called with the inputs of tiles; one output per tile.
        streams: batches with inputs of the same kind and size.

    Returns:
        One (B, K, H, W) per stream.

    Examples:
        >>> tiles = [TileBatch(step=0, images=torch.zeros(n, 3, 8, 8)) for n in (2, 3)]
        >>> [len(logits) for logits in forward_together(nn.Conv2d(3, 4, 1), *tiles)]
        [2, 3]
    """
    call: Callable[..., Tensor] = network
    if any(isinstance(layer, _BatchNorm) and layer.training for layer in network.modules()):
        return tuple(call(tiles.inputs) for tiles in streams)
    inputs = [tiles.inputs if isinstance(tiles.inputs, tuple) else (tiles.inputs,) for tiles in streams]
    joined = tuple(torch.cat(maps) for maps in zip(*inputs, strict=True))
    places, before = [], 0
    for tiles in streams:
        places.append(before + tiles.part_of(torch.arange(tiles.whole)))
        before += tiles.whole
    with samples_at(torch.cat(places)):
        logits = call(joined[0] if isinstance(streams[0].inputs, Tensor) else joined)
    return torch.split(logits, [len(maps[0]) for maps in inputs])
