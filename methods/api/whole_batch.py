"""Access to the whole batch of a step, which may be spread over several processes, each with a part of its tiles.

Everything here is a collective operation: all processes must call it equally often. Alone, a process has the whole
batch and nothing is communicated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, distributed

_PLACES: ContextVar[Tensor | None] = ContextVar("places", default=None)


def n_processes() -> int:
    """Return the number of processes that share the batch."""
    return distributed.get_world_size() if _are_several() else 1


def gathered(tensor: Tensor) -> list[Tensor]:
    """Return the (N, ...) tensors of all processes in rank order, without gradient; N may differ."""
    tensor = tensor.detach()
    if not _are_several():
        return [tensor]
    count = torch.full((1,), len(tensor), device=tensor.device)
    counts = [torch.empty_like(count) for _ in range(n_processes())]
    distributed.all_gather(counts, count)
    lengths = [int(each) for each in counts]
    filled = tensor.new_zeros(max(lengths), *tensor.shape[1:])  # all_gather needs equal shapes
    filled[: len(tensor)] = tensor
    parts = [torch.empty_like(filled) for _ in lengths]
    distributed.all_gather(parts, filled)
    return [part[:length] for part, length in zip(parts, lengths, strict=True)]


def gathered_with_own_gradient(own: Tensor) -> Tensor:
    """Return the rows of all W processes in rank order; this process's keep their graph, with the gradient scaled by W.

    A loss of all rows is then the same in each process, and as gradients are averaged, its gradient is that of a single
    process.
    """
    parts = gathered(own)
    if len(parts) == 1:
        return own
    parts[distributed.get_rank()] = own.detach() + len(parts) * (own - own.detach())
    return torch.cat(parts)


def in_batch_order(rows: Tensor, places: Tensor | None) -> Tensor:
    """Return the gathered rows (N, ...) of all processes in the order of the whole batch.

    Args:
        rows: in rank order, as gathered.
        places: positions in the whole batch of this process's own rows; None if rank order is that order.
    """
    return rows if places is None else rows[torch.cat(gathered(places.to(rows.device, non_blocking=True))).argsort()]


@contextmanager
def samples_at(places: Tensor | None) -> Iterator[None]:
    """Tell layers that draw for the whole batch, such as dropout, which samples of it the process's own ones are.

    Args:
        places: their positions; None for the default: the samples after those of the processes before it.
    """
    token = _PLACES.set(places)
    try:
        yield
    finally:
        _PLACES.reset(token)


def own_samples(first: int, count: int) -> slice | Tensor:
    """Return the positions of the process's own ``count`` samples, by default from ``first`` on; see ``samples_at``."""
    places = _PLACES.get()
    return slice(first, first + count) if places is None else places


def following(values: Tensor) -> Tensor:
    """Return for each sample of values (N, ...) the next one of the whole batch, and the first one for the last.

    No gradient reaches the samples of another process.
    """
    rolled = values.roll(-1, dims=0)
    if not _are_several():
        return rolled
    first = values[:1].detach().contiguous()
    firsts = [torch.empty_like(first) for _ in range(n_processes())]
    distributed.all_gather(firsts, first)
    rolled[-1:] = firsts[(distributed.get_rank() + 1) % len(firsts)]
    return rolled


def _are_several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
