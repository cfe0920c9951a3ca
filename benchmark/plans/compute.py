"""How a plan is run: where, how many at once, and when a task is given up. Never part of a trial's identity."""

from __future__ import annotations

from pydantic import Field

from tissuebench.common.settings import Settings


class SlurmSettings(Settings):
    """What each task asks SLURM for; ``null`` leaves it to the site's default.

    Attributes:
        partition, account, qos: as for ``sbatch``.
        minutes: time limit; a task that needs longer is checkpointed, requeued and goes on.
        nodes: machines of one trial; every machine contributes ``gpus_per_node`` processes to it (one without GPUs).
        gpus_per_node: GPUs that a trial takes on each machine.
        cpus_per_gpu: cores for each process.
        memory_gb: memory of each machine's share.
        max_jobs: tasks that are queued at SLURM at once.
        signal_seconds: how long before the time limit SLURM warns.
        extra: further ``sbatch`` options, for example ``{constraint: a100, exclusive: true}``.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    minutes: int = Field(240, ge=1)
    nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(0, ge=0)
    cpus_per_gpu: int = Field(1, ge=1)
    memory_gb: float | None = Field(None, gt=0)
    max_jobs: int = Field(200, ge=1)
    signal_seconds: int = Field(90, ge=1)
    extra: dict[str, str | int | bool] = {}


class RaySettings(Settings):
    """What each task asks an existing Ray cluster for.

    Attributes:
        address: of the cluster's head, ``auto`` for the one that this machine belongs to.
        gpus: GPUs that a trial takes, all on one machine.
        cpus: cores for each process.
        resources: further resources, for example ``{a100: 1}``.
        max_tasks: tasks that are handed to Ray at once.
    """

    address: str = "auto"
    gpus: int = Field(0, ge=0)
    cpus: int = Field(1, ge=1)
    resources: dict[str, float] = {}
    max_tasks: int = Field(1000, ge=1)


class ComputeSettings(Settings):
    """Where and how tasks run.

    Attributes:
        executor: ``local``, ``slurm``, ``ray``, ``inline`` (in this process, for debugging), or that of an entry point.
        gpus: numbers (or UUIDs) of the GPUs to use; ``null`` takes all there are, ``[]`` none.
        slots: tasks that run at once on this machine. GPUs are dealt out to the slots: fewer slots than GPUs give each
            trial several (DDP), more slots than GPUs let trials share one. ``null``: a slot for each GPU, without GPUs
            one for each core.
        processes: processes of one trial; ``null``: one for each GPU of its slot.
        threads: of each process; ``null``: on CPUs one, with GPUs a fair share of the cores.
        memory_gb: a task that takes more is ended; ``null``: a fair share of this machine's memory.
        stall_minutes: a task that shows no progress for so long is ended.
        retries: how often a task that was lost (killed, its machine gone) is started again.
        checkpoint_minutes: between two checkpoints of a training.
    """

    executor: str = "local"
    gpus: tuple[int | str, ...] | None = None
    slots: int | None = Field(None, ge=1)
    processes: int | None = Field(None, ge=1)
    threads: int | None = Field(None, ge=1)
    memory_gb: float | None = Field(None, gt=0)
    stall_minutes: float = Field(30, gt=0)
    retries: int = Field(2, ge=0)
    checkpoint_minutes: float = Field(2, gt=0)
    slurm: SlurmSettings = SlurmSettings()
    ray: RaySettings = RaySettings()
