"""The processes that share one trial: who this one is, and what they agree on. A world of one touches no network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from tissuebench.errors import ConfigError

if TYPE_CHECKING:  # whoever starts workers reads this module, too, and needs no torch
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
"""Slides differ in size by orders of magnitude, so one process may wait long for another."""


@dataclass(frozen=True, slots=True)
class World:
    """One of ``size`` processes.

    Attributes:
        rank: of this process, 0 is the one that writes.
        local_rank: among the processes on its machine; the index of its GPU.
        size: processes on all machines.
        address, port: where process 0 is met.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    address: str = "127.0.0.1"
    port: int = 0

    def environment(self) -> dict[str, str]:
        """Variables that tell a process who it is."""
        return {_VARIABLES[name]: str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> World:
        """Who this process is; without any of the variables, a world of one.

        Raises:
            ConfigError: a variable is missing or makes no sense.
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
    """Connect the processes of ``world``, before Lightning could do it in its own way, and part at the end."""
    if world.size == 1:
        yield
        return
    import torch
    from torch import distributed

    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.set_device(device)
    elif world.address in ("127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else gloo looks the host's name up, which may lead nowhere
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
    """The sum of all processes' tensors, the same bits in each, on the device and with the dtype of ``tensor``."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return tensor
    # NCCL sees GPU memory only.
    total = tensor.detach().to("cuda", copy=True) if distributed.get_backend() == "nccl" else tensor.detach().clone()
    distributed.all_reduce(total)
    return total.to(tensor.device)


def gathered(value: ValueT) -> list[ValueT]:
    """Every process's value, in the order of their ranks; all must ask. Values travel as pickles between our own."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    everybody: list[ValueT | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everybody, value)
    return cast("list[ValueT]", everybody)


def any_over_processes(flag: bool) -> bool:
    """Whether ``flag`` holds in any process; all must ask."""
    import torch

    return bool(sum_over_processes(torch.tensor(int(flag))) > 0)
