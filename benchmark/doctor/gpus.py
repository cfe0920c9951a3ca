"""GPUs: the driver, the build of PyTorch, each card, and how several of them talk to each other."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from tissuebench.common.units import size_of
from tissuebench.doctor.finding import Finding, fix, note, ok, reason
from tissuebench.doctor.subject import Subject
from tissuebench.runtime.gpus import visible_gpus

_ANSWER_SECONDS = 5.0
_BUILDS = "https://pytorch.org/get-started/locally"
_PART = "MIG-"
"""Begins the UUID of a part of a GPU."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU as PyTorch sees it.

    Attributes:
        name: of the product.
        capability: compute capability, major and minor.
        free, total: memory in bytes.
        has_bf16: whether it multiplies in bf16.
        kernels: architectures that this build of PyTorch has kernels for, as ``sm_90``; empty if not known.
    """

    name: str
    capability: tuple[int, int]
    free: int
    total: int
    has_bf16: bool
    kernels: Sequence[str] = ()

    @property
    def has_kernels(self) -> bool:
        """Whether one of the kernels runs on it: of its major version and no newer, or as PTX of any older one."""
        if not self.kernels:
            return True
        for kernel in self.kernels:
            kind, _, number = kernel.rstrip("af").partition("_")
            major, minor = divmod(int(number), 10)
            if (kind == "compute" or major == self.capability[0]) and (major, minor) <= self.capability:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Driver:
    """Answer of ``nvidia-smi``.

    Attributes:
        cards: number of GPUs.
        parts: number of parts that they are divided into (MIG).
        version: of the driver.
        problem: why it does not answer; empty if it does.
    """

    cards: int = 0
    parts: int = 0
    version: str = ""
    problem: str = ""


@lru_cache(maxsize=1)
def installed_driver() -> Driver | None:
    """Ask ``nvidia-smi``; None if it is not installed."""
    try:
        listed = _ask("--list-gpus")
        version = _ask("--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        return Driver(problem=f"no answer within {_ANSWER_SECONDS:g} s")
    except OSError as error:
        return Driver(problem=reason(error))
    lines = listed.splitlines()
    return Driver(
        sum(line.startswith("GPU ") for line in lines), sum(f"UUID: {_PART}" in line for line in lines), version
    )


def driver(_: Path) -> Iterator[Finding]:
    """Check that the driver answers; sweeps ask it for GPUs."""
    found = installed_driver()
    if found is None:
        yield ok("GPU driver", "none: no nvidia-smi")
        return
    if found.problem:
        yield note(
            "GPU driver",
            f"nvidia-smi fails: {found.problem}",
            "if this machine has a GPU, load its driver again or restart the machine; if it has none, ignore this",
        )
        return
    supported = _cuda_of_driver()
    at_most = f", CUDA {supported[0]}.{supported[1]} at most" if supported else ""
    yield ok("GPU driver", f"{found.version}{at_most}; {_count(found.cards, 'GPU')}")
    if found.parts:
        chosen = [gpu for gpu in visible_gpus() if gpu.startswith(_PART)]
        said = f"{_count(found.parts, 'part')} of GPUs, {len(chosen)} in CUDA_VISIBLE_DEVICES"
        if chosen:
            yield ok("MIG", said)
        else:
            yield note(
                "MIG",
                said,
                "give parts by UUID, which nvidia-smi -L lists: CUDA_VISIBLE_DEVICES=MIG-...,MIG-...; else one is used",
            )


def pytorch(_: Path) -> Iterator[Finding]:
    """Check that the build of PyTorch fits the driver."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else ""
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    why = "" if usable or not torch.version.cuda else _why_no_cuda()
    yield build_finding(torch.__version__, build, usable, installed_driver(), _cuda_of_driver(), why)


def build_finding(
    version: str, build: str, usable: int, driver: Driver | None, cuda: tuple[int, int] | None, why: str
) -> Finding:
    """Return the verdict on a build of PyTorch.

    Args:
        version: of PyTorch.
        build: what it is built for; empty for CPUs.
        usable: number of GPUs that it can use.
        driver: the driver, if one is installed.
        cuda: newest CUDA that the driver supports.
        why: why CUDA cannot be used.
    """
    found = f"{version}, built for {build or 'CPUs'}"
    cards = driver.cards if driver else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if usable and not cards and not visible:
        numbers = ",".join(map(str, range(usable)))
        said = f"{found}; it finds {_count(usable, 'GPU')}, but nvidia-smi, which a sweep asks, lists none"
        return fix("PyTorch", said, f"set CUDA_VISIBLE_DEVICES={numbers}")
    if usable or not cards:
        return ok("PyTorch", f"{found}; {_count(usable, 'GPU') if usable else 'no GPU: trials train on the CPU'}")
    there = _count(cards, "GPU")
    if visible is not None and not visible.strip():
        return note("PyTorch", f"{found}; CUDA_VISIBLE_DEVICES is empty and hides {there}", "unset it to train on them")
    newest = f"{cuda[0]}.{cuda[1]}" if cuda else "the driver's version"
    if not build:
        said = f"{found}: it cannot use {there}"
        return fix("PyTorch", said, f"install a build for CUDA {newest} or older: {_BUILDS}")
    wanted = build.removeprefix("CUDA ").partition(".")[0]
    if cuda and wanted.isdecimal() and int(wanted) > cuda[0]:
        said = f"{found}; the driver supports CUDA {newest} at most"
        return fix("PyTorch", said, f"update the driver, or install a build for CUDA {newest} or older: {_BUILDS}")
    said = f"{found}; {there}, but CUDA cannot be used: {why or 'no reason given'}"
    hint = f"check CUDA_VISIBLE_DEVICES={visible}, " if visible else "check "
    return fix("PyTorch", said, f"{hint}the driver and, in a container, --gpus all; then restart the machine")


def cards(_: Path) -> Iterator[Finding]:
    """Look at each GPU."""
    import torch

    if not torch.cuda.is_available():
        return
    kernels = [] if torch.version.hip else torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        name = f"GPU {index}"
        try:
            with torch.cuda.device(index):
                about, memory = torch.cuda.get_device_properties(index), torch.cuda.mem_get_info(index)
                has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        except RuntimeError as error:
            yield fix(name, f"cannot be used: {reason(error)}", "see nvidia-smi; choose others with --gpus until then")
            continue
        yield card_finding(name, Card(about.name, (about.major, about.minor), *memory, has_bf16, kernels))


def card_finding(name: str, card: Card) -> Finding:
    """Return the verdict on a GPU."""
    capability = ".".join(map(str, card.capability))
    found = f"{card.name}, compute capability {capability}, {size_of(card.free)} of {size_of(card.total)} free"
    found += f", {'bf16' if card.has_bf16 else 'no bf16'}"
    if not card.has_kernels:
        said = f"{found}; this PyTorch has kernels for {', '.join(card.kernels)} only"
        return fix(name, said, f"install a build for an older CUDA, which has kernels for {capability}: {_BUILDS}")
    advice = []
    if not card.has_bf16:
        advice.append("trains in fp16 with a loss scaler where the method allows it, else in float32")
    if card.free < card.total / 2:
        advice.append("other processes use its memory (nvidia-smi lists them): wait, or choose others with --gpus")
    return note(name, found, "; ".join(advice)) if advice else ok(name, found)


def nccl(_: Path) -> Iterator[Finding]:
    """Check the library through which processes on several GPUs exchange gradients."""
    import torch
    from torch import distributed

    several = torch.cuda.is_available() and torch.cuda.device_count() > 1
    needed = "" if several else ", not needed here"
    if distributed.is_available() and distributed.is_nccl_available():
        version = ".".join(map(str, cast("Any", torch.cuda.nccl).version()))
        yield ok("NCCL", version + needed)
    elif several:
        advice = "give each trial one GPU (the default), or install another build"
        yield note("NCCL", "not in this build of PyTorch", advice)
    else:
        yield ok("NCCL", f"not in this build of PyTorch{needed}")


def _ask(*options: str) -> str:
    """Return the answer of ``nvidia-smi``.

    Raises:
        OSError: it cannot be run, or fails.
        subprocess.TimeoutExpired: it hangs.
    """
    done = subprocess.run(  # noqa: S603
        ["nvidia-smi", *options],  # noqa: S607 - found where the driver's installer put it
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_ANSWER_SECONDS,
    )
    if done.returncode:
        raise OSError((done.stdout.strip() or done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0])
    return done.stdout.strip()


def _cuda_of_driver() -> tuple[int, int] | None:
    """Return the newest CUDA that the driver supports; this needs no GPU and takes none of its memory."""
    version = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)):
            return None
    except (OSError, AttributeError):
        return None
    return version.value // 1000, version.value % 1000 // 10


def _why_no_cuda() -> str:
    import torch

    try:
        cast("Any", torch.cuda).init()
    except (RuntimeError, AssertionError) as error:
        return reason(error)
    return ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


SUBJECT = Subject(
    {"GPU driver": driver, "PyTorch": pytorch, "GPUs": cards, "NCCL": nccl},
    seconds=20,  # PyTorch alone may take ten from a network drive
    advice="try: python -c 'import torch; print(torch.cuda.is_available())'",
)
