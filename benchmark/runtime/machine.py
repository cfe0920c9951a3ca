"""Hardware-dependent settings: device, precision and loader workers. Never part of a trial's identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tissuebench.common.cores import allotted_cores
from tissuebench.datasets.loading.datamodule import LoaderSettings
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.plans.compute import Precision
from tissuebench.runtime.precision import choose_precision
from tissuebench.runtime.processes import ALONE, World

_MAX_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Machine:
    """Settings that match the hardware; ``accelerator`` and ``precision`` use Lightning's spelling.

    ``remark`` tells users why the precision is not the one that they may expect; empty if it is.
    """

    accelerator: str
    device: torch.device
    precision: str
    loader: LoaderSettings
    remark: str = ""


def detect_machine(
    encoder_mode: EncoderMode,
    world: World = ALONE,
    precision: Precision = Precision.AUTO,
    allows_float16: bool = False,
) -> Machine:
    """Return the settings for this machine; each process of a trial uses the GPU of its local rank.

    CUDA: TF32, loader workers, and batches in pinned memory that are copied one step ahead.
    CPU: no workers (tiles load from memory faster than they are trained on).

    Raises:
        ConfigError: a precision that the GPU does not have; see ``choose_precision`` for the last two arguments.
    """
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True  # fastest kernels: two runs of a trial may differ in the last bits
        accelerator, device = "gpu", torch.device("cuda", world.local_rank)
        loader = LoaderSettings(_loader_workers(), pin_memory=True, prefetch_to=device)
    else:
        accelerator, device, loader = "cpu", torch.device("cpu"), LoaderSettings()
    chosen, remark = choose_precision(device, encoder_mode, precision, allows_float16)
    return Machine(accelerator, device, chosen, loader, remark)


def _loader_workers() -> int:
    """Return the loader workers of this process: its share of the cores, which it has as threads, but for one."""
    return min(_MAX_WORKERS, min(allotted_cores(), torch.get_num_threads()) - 1)
