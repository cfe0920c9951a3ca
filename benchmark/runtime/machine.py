"""What "auto" means on this machine: device, precision, workers, thread counts. Never part of a trial's identity."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from tissuebench.datasets.loading.datamodule import LoaderSettings
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.runtime.processes import ALONE, World


@dataclass(frozen=True, slots=True)
class Machine:
    """Settings that fit the hardware: ``accelerator`` and ``precision`` in Lightning's spelling."""

    accelerator: str
    device: torch.device
    precision: str
    loader: LoaderSettings


def detect_machine(encoder_mode: EncoderMode, world: World = ALONE) -> Machine:
    """The settings for this machine; of several processes of a trial each takes the GPU of its rank on the machine.

    CUDA: bf16 mixed precision where the GPU has it, TF32, pinned memory, loaders in processes of their own. CPU: no
    workers (the tiles come from memory faster than they are trained on), bf16 only if the processor multiplies in it
    and the encoder is trained; small decoders on cached features are 1.4 to 1.7 times faster in float32.
    """
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True  # picks the fastest kernels: two runs of a trial may differ in last bits
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
        workers = min(8, max(1, (os.cpu_count() or 2) // max(1, torch.cuda.device_count()) - 1))
        if encoder_mode is EncoderMode.FROZEN:
            workers = 0
        device = torch.device("cuda", world.local_rank)
        return Machine("gpu", device, precision, LoaderSettings(workers, pin_memory=True))
    bf16 = encoder_mode is EncoderMode.FINETUNE and _cpu_multiplies_bf16()
    return Machine("cpu", torch.device("cpu"), "bf16-mixed" if bf16 else "32-true", LoaderSettings())


def _cpu_multiplies_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
