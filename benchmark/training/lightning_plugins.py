"""Lightning plugins for our own processes: Lightning starts none, queries no scheduler, and writes files atomically."""

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
    """Cluster environment that reports the given ``World``.

    Without it Lightning would detect SLURM or torchrun by itself, adopt their ranks, requeue jobs and write
    ``hpc_ckpt`` files that a later trial in the same folder silently starts from.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    @property
    def creates_processes_externally(self) -> bool:
        """Always true; otherwise Lightning would run ``sys.argv`` again."""
        return True

    @property
    def main_address(self) -> str:
        """Address of process 0."""
        return self._world.address

    @property
    def main_port(self) -> int:
        """Port of process 0."""
        return self._world.port

    @staticmethod
    def detect() -> bool:
        """Return False: this environment is passed explicitly."""
        return False

    def world_size(self) -> int:
        """Return the number of processes on all nodes."""
        return self._world.size

    def set_world_size(self, size: int) -> None:
        """Ignore the size that Lightning derives from the devices it sees."""

    def global_rank(self) -> int:
        """Return the rank of this process."""
        return self._world.rank

    def set_global_rank(self, rank: int) -> None:
        """Ignore the rank that Lightning derives."""

    def local_rank(self) -> int:
        """Return the rank on this node."""
        return self._world.local_rank

    def node_rank(self) -> int:
        """Return 0; unused, as ranks are given and not computed from the rank of the node."""
        return 0


class OneDeviceDDP(DDPStrategy):
    """DDP for processes that know one device each, whatever their rank."""

    def __init__(self, device: torch.device) -> None:
        # Autograd may let two parameters share the memory of one gradient (two biases of a sum, one pixel each). As
        # views of DDP's buckets each has its own, so that clipping does not scale one gradient twice.
        super().__init__(find_unused_parameters=True, gradient_as_bucket_view=True)
        self._device = device

    @property
    def root_device(self) -> torch.device:
        """The only device of this process."""
        return self._device


class CheckpointsAside(TorchCheckpointIO):
    """Writes a checkpoint next to the old one and renames it.

    Lightning's own writer goes through a temporary file elsewhere; if that is on another file system, its last step is
    a copy, and a process that is killed during the copy leaves a truncated checkpoint in place of the good one.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401 - Lightning's
    ) -> None:
        """Write the checkpoint atomically."""
        write_torch(Path(path), checkpoint)
