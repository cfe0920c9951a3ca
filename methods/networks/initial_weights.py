"""Initial weights of the shared network: a function of the seed, whatever else is built before or after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tissuebench.common.hashing import derive_seed


@contextmanager
def initial_weights(number: int = 0) -> Iterator[None]:
    """Draw the weights built in the block from the seed of torch's global generator, and leave its state unchanged.

    Methods that build their parts in another order, or more of them, thus start from the same network.

    Args:
        number: draws of different numbers are independent, for methods that need several networks.
    """
    seed = derive_seed(torch.initial_seed(), "initial weights", number)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
