"""A memory of what a teacher said about the last tiles."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn


class KeyQueue(nn.Module):
    """Ring of K keys, the oldest overwritten first; all of it is in the state, so training goes on bit for bit.

    It begins with random normals, as that of ACTION (You et al., IPMI 2023), whose code scales them by the norm over
    the queue; cosines hardly see the difference. The code also demands that a batch divides K, which is not needed.

    Attributes:
        keys: (K, *shape) float32, as pushed; losses normalise them.
        pointer: () int64, where the next key goes.

    Args:
        length: K.
        shape: of a key.
        generator: of the first keys, on the CPU; the same in all processes.

    Raises:
        ValueError: the length is not positive.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, length: int, shape: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"a queue has a positive length, not {length}")
        self.register_buffer("keys", torch.randn(length, *shape, generator=generator))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Overwrite the oldest keys in place, without gradient; of more than K, the last K stay.

        Several processes push what all of them hold, in the order of their ranks, so all queues stay the queue of one
        process. All must call it equally often.

        Args:
            keys: (N, *shape) float, N any number, another one in each process.

        Raises:
            ValueError: the keys have another shape.
        """
        if keys.shape[1:] != self.keys.shape[1:]:
            raise ValueError(
                f"keys have shape {tuple(keys.shape[1:])}, those of the queue {tuple(self.keys.shape[1:])}"
            )
        keys = torch.cat(gathered(keys.to(self.keys.dtype)))
        length = len(self.keys)
        # What would be overwritten in the same push is not written: two values for one place come in any order.
        places = torch.arange(max(0, len(keys) - length), len(keys), device=keys.device)
        self.keys[(self.pointer + places) % length] = keys[places]
        self.pointer.add_(len(keys)).remainder_(length)


def gathered(tensor: Tensor) -> list[Tensor]:
    """The (N, ...) tensors of all processes, in the order of ranks; N may differ. Without gradient."""
    tensor = tensor.detach()
    if not (distributed.is_available() and distributed.is_initialized()):
        return [tensor]
    world_size = distributed.get_world_size()
    count = torch.tensor([len(tensor)], device=tensor.device)
    counts = [torch.empty_like(count) for _ in range(world_size)]
    distributed.all_gather(counts, count)
    lengths = [int(each) for each in counts]
    filled = tensor.new_zeros(max(lengths), *tensor.shape[1:])  # all that is exchanged has one shape
    filled[: len(tensor)] = tensor
    parts = [torch.empty_like(filled) for _ in range(world_size)]
    distributed.all_gather(parts, filled)
    return [part[:length] for part, length in zip(parts, lengths, strict=True)]
