"""Low-rank updates of attention layers: ``y = W x + 2 B A x`` with A (r x in) random, B (out x r) zero at the start.

Hu et al., LoRA, ICLR 2022, with alpha = 2 r. W and its bias are not trained.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_SCALE = 2.0
_ATTENTION = "attn"


class LowRankLinear(nn.Module):
    """Linear layer with a trained update of low rank.

    Args:
        linear: the layer, which is frozen.
        rank: r.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = linear.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    @property
    def weight(self) -> Tensor:
        """Weight with the update, (out, in), for attention that multiplies by it instead of calling the layer."""
        return self.base.weight + _SCALE * self.up @ self.down

    @property
    def bias(self) -> Tensor | None:
        """Bias of the layer, (out,)."""
        return cast("Tensor | None", self.base.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the layer with its update, (..., out) for (..., in)."""
        update = functional.linear(functional.linear(x, self.down), self.up)
        return cast("Tensor", self.base(x)) + _SCALE * update


def add_low_rank_updates(network: nn.Module, rank: int) -> int:
    """Replace the linear layers of all attention modules of a frozen network by ones with updates; return how many."""
    found = [
        (module, name, child)
        for path, module in network.named_modules()
        if _ATTENTION in path.rpartition(".")[2]
        for name, child in module.named_children()
        if isinstance(child, nn.Linear)
    ]
    for module, name, child in found:
        setattr(module, name, LowRankLinear(child, rank))
    return len(found)
