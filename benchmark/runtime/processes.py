"""Processes that share one trial: their ranks and collective operations. A single process never uses the network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from tissuebench.errors import ConfigError

if TYPE_CHECKING:  # the code that starts workers imports this module as well and needs no torch
    import torch
    from torch import Tensor

ValueT = TypeVar("ValueT")

_VARIABLES = {
    "rank": "TISSUEBENCH_RANK",
    "local_rank": "TISSUEBENCH_LOCAL_RANK",
    "size": "TISSUEBENCH_WORLD_SIZE",
    "address": "TISSUEBENCH_MASTER_ADDR",
    "port": "TISSUEBENCH_MASTER_PORT",
}
_PATIENCE = timedelta(hours=2)
"""Slides differ in size by orders of magnitude, so one process may wait a long time for another."""


@dataclass(frozen=True, slots=True)
class World:
    """One of the ``size`` processes of a trial.

    Attributes:
        rank: rank of this process; rank 0 writes the results.
        local_rank: rank among the processes on its node; also the index of its GPU.
        size: number of processes on all nodes.
        address, port: where process 0 can be reached.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    address: str = "127.0.0.1"
    port: int = 0

    def environment(self) -> dict[str, str]:
        """Return the environment variables that pass this world to a process."""
        return {_VARIABLES[name]: str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> World:
        """Read the world of this process from the environment; a single process if none of the variables is set.

        Raises:
            ConfigError: a variable is missing or invalid.
        """
        given = {name: environment[variable] for name, variable in _VARIABLES.items() if variable in environment}
        if not given:
            return ALONE
        if missing := [variable for variable in _VARIABLES.values() if variable not in environment]:
            raise ConfigError(f"environment: {missing[0]} is missing while other TISSUEBENCH_* variables are set")
        numbers = {}
        for name in ("rank", "local_rank", "size", "port"):
            if not given[name].isdecimal():
                raise ConfigError(f"environment: {_VARIABLES[name]}={given[name]!r} is not a number")
            numbers[name] = int(given[name])
        if not 0 <= numbers["rank"] < numbers["size"]:
            raise ConfigError(
                f"environment: TISSUEBENCH_RANK={numbers['rank']} is not one of {numbers['size']} processes, numbered "
                "from 0"
            )
        return cls(numbers["rank"], numbers["local_rank"], numbers["size"], given["address"], numbers["port"])


ALONE = World()


@contextmanager
def connected(world: World, device: torch.device) -> Iterator[None]:
    """Connect the processes of ``world`` for the duration of the block, before Lightning could do it in its own way."""
    if world.size == 1:
        yield
        return
    import torch
    from torch import distributed

    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.set_device(device)
    elif world.address in ("127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # otherwise gloo resolves the host name, which may fail
    distributed.init_process_group(
        "nccl" if gpu else "gloo",
        init_method=f"tcp://{world.address}:{world.port}",
        rank=world.rank,
        world_size=world.size,
        timeout=_PATIENCE,
        device_id=device if gpu else None,
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of ``tensor`` over all processes, bitwise identical in each, on its device and with its dtype."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return tensor
    # NCCL sees GPU memory only.
    total = tensor.detach().to("cuda", copy=True) if distributed.get_backend() == "nccl" else tensor.detach().clone()
    distributed.all_reduce(total)
    return total.to(tensor.device)


def gathered(value: ValueT) -> list[ValueT]:
    """Return the values of all processes in rank order; every process must call this.

    Values are pickled, which is safe between the processes of one trial.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    everybody: list[ValueT | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everybody, value)
    return cast("list[ValueT]", everybody)


def any_over_processes(flag: bool) -> bool:
    """Return whether ``flag`` holds in any process; every process must call this."""
    import torch

    return bool(sum_over_processes(torch.tensor(int(flag))) > 0)
