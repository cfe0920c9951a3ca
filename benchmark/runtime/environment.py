"""Environment of a result: package versions, hardware and code revision."""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import tissuebench
from tissuebench.common.cores import allotted_cores
from tissuebench.common.hashing import Json

if TYPE_CHECKING:  # versions and revision are also asked for where nothing is computed
    import torch

_PACKAGES = (
    "tissuebench", "torch", "torchvision", "lightning", "timm", "segmentation-models-pytorch", "kornia", "numpy",
    "zarr", "tifffile", "imagecodecs",
)  # fmt: skip


@lru_cache(maxsize=1)
def describe_environment() -> dict[str, Json]:
    """Return package versions, processor, threads, GPUs and git revision as JSON."""
    import torch

    return {
        "packages": {**package_versions()},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": allotted_cores(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "revision": revision(),
    }


def describe_device(device: torch.device) -> str:
    """Return the kind of device: ``cpu``, or the name of the card."""
    import torch

    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def package_versions() -> dict[str, str | None]:
    """Return the versions of the packages that results depend on most; None for one that is not installed."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """Return the model of the processor, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def revision() -> str | None:
    """Return the git revision of the code, ``-dirty`` if files were changed; None if it is no checkout."""
    folder = Path(tissuebench.__file__).parent
    git = ["git", "-C", str(folder)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", "errors.py"], capture_output=True, timeout=5)  # noqa: S603
        if tracked.returncode:
            return None
        found = subprocess.run([*git, "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=5)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
