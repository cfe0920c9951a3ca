"""Hardware-dependent settings: device, precision and loader workers. Never part of a trial's identity."""

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
    """Settings that match the hardware; ``accelerator`` and ``precision`` use Lightning's spelling."""

    accelerator: str
    device: torch.device
    precision: str
    loader: LoaderSettings


def detect_machine(encoder_mode: EncoderMode, world: World = ALONE, is_cached: bool = True) -> Machine:
    """Return the settings for this machine; each process of a trial uses the GPU of its local rank.

    CUDA: bf16 mixed precision if the GPU supports it, TF32, pinned memory, loader workers unless the encoder is frozen
    and its features are cached (``is_cached``).
    CPU: no workers (tiles load from memory faster than they are trained on), bf16 only if the processor multiplies in
    bf16 and the encoder is fine-tuned; small decoders on cached features are 1.4 to 1.7 times faster in float32.
    """
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True  # fastest kernels: two runs of a trial may differ in the last bits
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
        workers = min(8, max(1, (os.cpu_count() or 2) // max(1, torch.cuda.device_count()) - 1))
        if encoder_mode is EncoderMode.FROZEN and is_cached:
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
