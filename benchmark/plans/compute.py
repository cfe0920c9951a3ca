"""Compute settings of a plan: executor, parallelism and limits. Never part of a trial's identity."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from tissuebench.common.settings import Settings


class Precision(StrEnum):
    """Precision of a task's networks; losses, weights and their averages are float32 in any case.

    ``auto``: bf16 on a GPU that has it, else fp16 on one with tensor cores if the stage allows it, else fp32. ``bf16``,
    ``fp16`` (with a gradient scaler; fp32 for a stage that does not allow it), ``fp32``.
    """

    AUTO = "auto"
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


class SlurmSettings(Settings):
    """Resources that each task requests from SLURM; ``null`` uses the site's default.

    Attributes:
        partition, account, qos: as for ``sbatch``.
        minutes: time limit; a task that needs longer is checkpointed, requeued and picks up where it left off.
        nodes: nodes per trial; each node contributes ``gpus_per_node`` processes (one without GPUs).
        gpus_per_node: GPUs per trial on each node.
        cpus_per_gpu: cores per process.
        memory_gb: memory per trial on each node.
        max_jobs: maximum number of tasks queued at SLURM at once.
        signal_seconds: seconds before the time limit at which SLURM sends a warning.
        extra: additional ``sbatch`` options, for example ``{constraint: a100, exclusive: true}``.
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
    """Resources that each task requests from an existing Ray cluster.

    Attributes:
        address: address of the cluster's head; ``auto`` for the cluster that this machine belongs to.
        gpus: GPUs per trial, all on one node.
        cpus: cores per process.
        resources: additional resources, for example ``{a100: 1}``.
        max_tasks: maximum number of tasks submitted to Ray at once.
    """

    address: str = "auto"
    gpus: int = Field(0, ge=0)
    cpus: int = Field(1, ge=1)
    resources: dict[str, float] = {}
    max_tasks: int = Field(1000, ge=1)


class ComputeSettings(Settings):
    """Executor, resources and limits of the tasks of a plan.

    Attributes:
        executor: ``local``, ``slurm``, ``ray``, ``inline`` (in this process, for debugging), or the name of an entry
            point.
        gpus: numbers (or UUIDs) of the GPUs to use; ``null`` uses all, ``[]`` none.
        slots: number of tasks that run at once on this machine. GPUs are divided among the slots: with fewer slots than
            GPUs, each trial gets several (DDP); with more slots than GPUs, trials share one. ``null``: one slot per
            GPU, or without GPUs one per core.
        processes: processes per trial; ``null``: one per GPU of its slot.
        threads: threads per process; ``null``: one on CPUs, a fair share of the cores with GPUs.
        precision: ``auto``, ``bf16``, ``fp16`` or ``fp32``, see ``Precision``. Results differ in their last digits; the
            precision in use is recorded with them.
        memory_gb: a task that exceeds this memory is ended; ``null``: a fair share of the memory of this machine
            (of its cgroup, if that has less).
        stall_minutes: a task that makes no progress for this long is ended.
        retries: how often a lost task (killed, or its node gone) is restarted.
        checkpoint_minutes: minutes between two training checkpoints.
        feature_cache_gb: size, in 10^9 bytes, above which ``network.feature_cache: null`` becomes ``off``: that of the
            features of all training tiles and, at most, of all windows of the part that is scored. The size follows
            from plan and data, whatever the machine.
    """

    executor: str = "local"
    gpus: tuple[int | str, ...] | None = None
    slots: int | None = Field(None, ge=1)
    processes: int | None = Field(None, ge=1)
    threads: int | None = Field(None, ge=1)
    precision: Precision = Precision.AUTO
    memory_gb: float | None = Field(None, gt=0)
    stall_minutes: float = Field(30, gt=0)
    retries: int = Field(2, ge=0)
    checkpoint_minutes: float = Field(2, gt=0)
    feature_cache_gb: float = Field(200, ge=0)
    slurm: SlurmSettings = SlurmSettings()
    ray: RaySettings = RaySettings()
