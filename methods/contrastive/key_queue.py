"""Memory of the teacher's keys for the most recent tiles."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tissuebench.methods.api.whole_batch import gathered, in_batch_order


class KeyQueue(nn.Module):
    """Ring buffer of K keys that overwrites the oldest first; fully part of the state, so training resumes bit for bit.

    It is initialised with random normals, as in ACTION (You et al., IPMI 2023), whose code also divides them by the
    norm over the queue; cosines are barely affected. That code also requires the batch size to divide K; here it need
    not.

    Attributes:
        keys: (K, *shape) float32, as pushed; losses normalise them.
        pointer: () int64, position of the next key.

    Args:
        length: K.
        shape: shape of one key.
        generator: source of the initial keys, on the CPU; the same in all processes.

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
    def push(self, keys: Tensor, places: Tensor | None = None) -> None:
        """Overwrite the oldest keys in place, without gradient; if there are more than K, the last K are kept.

        With several processes, each pushes the keys of all of them, so every queue equals that of a single process. All
        processes must call it equally often.

        Args:
            keys: (N, *shape) float; N is arbitrary and may differ between processes.
            places: (N,) positions of the keys in the whole batch, which is their order; by default rank order.

        Raises:
            ValueError: the keys have a different shape.
        """
        if keys.shape[1:] != self.keys.shape[1:]:
            raise ValueError(
                f"keys have shape {tuple(keys.shape[1:])}, those of the queue {tuple(self.keys.shape[1:])}"
            )
        self.store(in_batch_order(torch.cat(gathered(keys.to(self.keys.dtype))), places))

    @torch.no_grad()
    def store(self, keys: Tensor) -> None:
        """Push keys (N, *shape) of the whole batch, which every process already has in full."""
        length = len(self.keys)
        # Skip keys that the same push would overwrite: the order of two writes to one position is undefined.
        places = torch.arange(max(0, len(keys) - length), len(keys), device=keys.device)
        self.keys[(self.pointer + places) % length] = keys[places].to(self.keys.dtype)
        self.pointer.add_(len(keys)).remainder_(length)
