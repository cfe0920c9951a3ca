"""Means over a batch that may be spread over several processes."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def pooled(total: Tensor, count: Tensor | int) -> Tensor:
    """Return ``total / count`` over the whole batch, possibly spread over W processes; 0 if nothing is counted.

    Gradients are averaged over the processes, whose parts may differ in size, so each divides its sum by the mean
    count: ``W total_r / sum over r of count_r``. The mean of these over the processes is the loss of the whole batch.
    All processes must call it equally often.

    Args:
        total: this process's sum, with its graph; () float.
        count: this process's number of summands, a number or () integer or float; has no gradient.

    Returns:
        () float; still connected to the graph if nothing is counted.

    Examples:
        >>> import torch
        >>> pooled(torch.tensor(6.0), torch.tensor(3))
        tensor(2.)
    """
    if not isinstance(count, Tensor):  # filled there: copying a number to a GPU would wait for it
        count = torch.full((), count, device=total.device)
    if not (distributed.is_available() and distributed.is_initialized()):
        return total / count.clamp(min=1)
    everywhere = count.detach().clone()
    distributed.all_reduce(everywhere)
    return total * distributed.get_world_size() / everywhere.clamp(min=1)
