"""Precision of a task's networks on the device at hand, in Lightning's spelling. Never part of a trial's identity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from tissuebench.errors import ConfigError
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.plans.compute import Precision

FP32: Final = "32-true"
BF16: Final = "bf16-mixed"
FP16: Final = "16-mixed"
_AUTOCAST: Mapping[str, torch.dtype] = {BF16: torch.bfloat16, FP16: torch.float16}
_TENSOR_CORES = (7, 0)
"""Compute capability from which float16 is faster than float32: V100, T4."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which networks compute in ``precision``."""
    return torch.autocast(device.type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST)


def choose_precision(
    device: torch.device, encoder_mode: EncoderMode, wanted: Precision, allows_float16: bool
) -> tuple[str, str]:
    """Return the precision, and a remark for users where it is not the one that they may expect.

    Without a wish a CPU gets bf16 only if it multiplies in bf16 and the encoder is fine-tuned: small decoders on cached
    features are 1.4 to 1.7 times faster in float32.

    Args:
        device: the device that computes.
        encoder_mode: whether the encoder is fine-tuned.
        wanted: ``compute.precision``.
        allows_float16: whether the stage does, see ``Trainable.allows_float16``.

    Raises:
        ConfigError: bf16 on a GPU without it.
    """
    is_gpu = device.type == "cuda"
    if is_gpu:
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        has_fast_float16 = torch.cuda.get_device_capability(device) >= _TENSOR_CORES
    else:
        has_bf16, has_fast_float16 = encoder_mode is EncoderMode.FINETUNE and _cpu_multiplies_bf16(), False
    match wanted:
        case Precision.FP32:
            return FP32, ""
        case Precision.BF16:
            if is_gpu and not has_bf16:
                name = torch.cuda.get_device_name(device)
                raise ConfigError(f"compute.precision bf16: {name} has no bf16; use auto, fp16 or fp32")
            return BF16, ""
        case Precision.FP16 if allows_float16:
            return FP16, ""
        case Precision.FP16:
            return FP32, "computed in float32, not as compute.precision says: it does not declare half_precision"
    if has_bf16:
        return BF16, ""
    if has_fast_float16 and allows_float16:
        return FP16, ""
    if has_fast_float16:
        return FP32, "computed in float32: this GPU has no bf16, and it does not declare half_precision"
    return FP32, ""


def _cpu_multiplies_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
