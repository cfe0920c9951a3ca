"""How Lightning is told of our processes: it starts none, asks no scheduler, and writes files aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy

from tissuebench.runtime.processes import World
from tissuebench.training.checkpoints import write_torch


class WorldEnvironment(ClusterEnvironment):
    """Says what ``World`` says.

    Without it Lightning would look for SLURM or torchrun by itself, take their ranks for its own, requeue jobs and
    write ``hpc_ckpt`` files that a later trial in the same folder silently starts from.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    @property
    def creates_processes_externally(self) -> bool:
        """Yes: Lightning would run ``sys.argv`` again."""
        return True

    @property
    def main_address(self) -> str:
        """Where process 0 is met."""
        return self._world.address

    @property
    def main_port(self) -> int:
        """Where process 0 is met."""
        return self._world.port

    @staticmethod
    def detect() -> bool:
        """Never: it is passed explicitly."""
        return False

    def world_size(self) -> int:
        """Processes on all machines."""
        return self._world.size

    def set_world_size(self, size: int) -> None:
        """Stays as it is, whatever Lightning makes of the devices it sees."""

    def global_rank(self) -> int:
        """Rank of this process."""
        return self._world.rank

    def set_global_rank(self, rank: int) -> None:
        """Stays as it is."""

    def local_rank(self) -> int:
        """Rank on this machine."""
        return self._world.local_rank

    def node_rank(self) -> int:
        """Not used: ranks are given, not computed from that of the machine."""
        return 0


class OneDeviceDDP(DDPStrategy):
    """DDP in processes that know one device each, whatever their rank."""

    def __init__(self, device: torch.device) -> None:
        # Autograd may give two parameters one gradient in the same memory (two biases of a sum, one pixel each); in its
        # place in DDP's buffer each has its own, and clipping does not meet one twice.
        super().__init__(find_unused_parameters=True, gradient_as_bucket_view=True)
        self._device = device

    @property
    def root_device(self) -> torch.device:
        """The one device."""
        return self._device


class CheckpointsAside(TorchCheckpointIO):
    """Writes beside the old checkpoint and renames.

    Lightning's own writer goes through a temporary file elsewhere; from another file system its last step is a copy,
    and a process that is killed in it leaves a torn checkpoint in place of the good one.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401 - Lightning's
    ) -> None:
        """Write it whole or not at all."""
        write_torch(Path(path), checkpoint)
