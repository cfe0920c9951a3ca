"""Drivers, builds of PyTorch and cards: a stand-in answers as nvidia-smi does, verdicts are asked for cards of all kinds."""

from __future__ import annotations

import os
import stat
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from tissuebench.doctor import gpus
from tissuebench.doctor.examine import examine
from tissuebench.doctor.finding import State
from tissuebench.doctor.gpus import Card, Driver, build_finding, card_finding

GB = 10**9
LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
  MIG 1g.5gb      Device  0: (UUID: MIG-c4b5c4b5-0000-5000-8000-000000000001)
  MIG 1g.5gb      Device  1: (UUID: MIG-c4b5c4b5-0000-5000-8000-000000000002)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-00000000-d268-c3f3-1b07-005d5ae1dc3f)
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a program of that name first on the path."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        gpus.installed_driver.cache_clear()

    yield install
    gpus.installed_driver.cache_clear()


def answering(listed: str) -> str:
    return f"case $1 in --list-gpus) cat <<'END'\n{listed}END\n;; *) printf '570.86.10\\n570.86.10\\n';; esac"


def test_gpus_and_their_parts_are_counted(nvidia_smi, monkeypatch):
    nvidia_smi(answering(LISTED))
    assert gpus.installed_driver() == Driver(2, 2, "570.86.10")
    driver, parts = gpus.driver(None)
    assert driver.state is State.OK
    assert driver.found == "570.86.10; 2 GPUs"
    assert (parts.name, parts.state) == ("MIG", State.NOTE)
    assert "CUDA_VISIBLE_DEVICES=MIG-" in parts.advice
    assert "c4b5" not in parts.found + parts.advice
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-c4b5c4b5-0000-5000-8000-000000000001")
    _, parts = gpus.driver(None)
    assert (parts.state, parts.found) == (State.OK, "2 parts of GPUs, 1 in CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            'echo "NVIDIA-SMI has failed because it couldn\'t communicate with the driver."; exit 9',
            "couldn't communicate",
        ),
        ("exit 3", "exit code 3"),
        ("echo 'NVML: Driver/library version mismatch' >&2; exit 18", "version mismatch"),
        ("printf '\\377\\376'; exit 1", "nvidia-smi fails: "),
    ],
)
def test_a_broken_nvidia_smi_is_a_note_as_there_may_be_no_gpu(nvidia_smi, script, said):
    nvidia_smi(script)
    (found,) = gpus.driver(None)
    assert found.state is State.NOTE
    assert said in found.found


def test_an_nvidia_smi_that_hangs_or_is_no_program(nvidia_smi, monkeypatch, tmp_path):
    monkeypatch.setattr(gpus, "_ANSWER_SECONDS", 0.3)
    nvidia_smi("exec sleep 60")
    (found,) = gpus.driver(None)
    assert found.found == "nvidia-smi fails: no answer within 0.3 s"
    nvidia_smi("")
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF of another machine")
    (found,) = gpus.driver(None)
    assert found.state is State.NOTE


def test_no_nvidia_smi_is_fine(monkeypatch):
    monkeypatch.setenv("PATH", "")
    gpus.installed_driver.cache_clear()
    (found,) = gpus.driver(None)
    gpus.installed_driver.cache_clear()
    assert found == gpus.ok("GPU driver", "none: no nvidia-smi")


@pytest.mark.parametrize(
    ("build", "usable", "driver", "cuda", "state", "said"),
    [
        ("CUDA 13.0", 0, None, None, State.OK, "no GPU: trials train on the CPU"),
        ("", 0, None, None, State.OK, "built for CPUs"),
        ("CUDA 13.0", 2, Driver(2), (13, 0), State.OK, "2 GPUs"),
        ("CUDA 12.8", 1, Driver(1), (13, 0), State.OK, "1 GPU"),
        ("CUDA 13.0", 2, None, None, State.FIX, "set CUDA_VISIBLE_DEVICES=0,1"),
        ("CUDA 13.0", 1, Driver(problem="broken"), None, State.FIX, "set CUDA_VISIBLE_DEVICES=0"),
        ("", 0, Driver(1), (12, 4), State.FIX, "install a build for CUDA 12.4 or older"),
        ("CUDA 13.0", 0, Driver(1), (12, 4), State.FIX, "update the driver"),
        ("CUDA 12.8", 0, Driver(1), (12, 4), State.FIX, "CUDA cannot be used: No CUDA GPUs are available"),
        ("CUDA 13.0", 0, Driver(problem="broken"), None, State.OK, "no GPU"),
    ],
)
def test_a_build_of_pytorch_and_the_driver(monkeypatch, build, usable, driver, cuda, state, said):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = build_finding("2.14.1", build, usable, driver, cuda, "No CUDA GPUs are available")
    assert found.state is state
    assert said in f"{found.found} -> {found.advice}"


def test_gpus_that_are_hidden_or_misnamed(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden = build_finding("2.14.1", "CUDA 13.0", 0, Driver(4), (13, 0), "")
    assert hidden.state is State.NOTE
    assert "hides 4 GPUs" in hidden.found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9")
    misnamed = build_finding("2.14.1", "CUDA 13.0", 0, Driver(4), (13, 0), "invalid device ordinal")
    assert misnamed.state is State.FIX
    assert "check CUDA_VISIBLE_DEVICES=9" in misnamed.advice


def test_a_card_that_is_fine():
    found = card_finding("GPU 0", Card("NVIDIA H200", (9, 0), 140 * GB, 150 * GB, True, ["sm_80", "sm_90a"]))
    assert found.state is State.OK
    assert found.found == "NVIDIA H200, compute capability 9.0, 140 GB of 150 GB free, bf16"


def test_a_card_without_bf16_or_with_little_free_memory():
    found = card_finding("GPU 1", Card("Tesla T4", (7, 5), 3 * GB, 16 * GB, False, ["sm_75"]))
    assert (found.name, found.state) == ("GPU 1", State.NOTE)
    assert "no bf16" in found.found
    assert "fp16 with a loss scaler" in found.advice
    assert "other processes use its memory" in found.advice


def test_a_card_that_this_pytorch_has_no_kernels_for():
    found = card_finding("GPU 0", Card("Tesla V100", (7, 0), 32 * GB, 32 * GB, False, ["sm_75", "sm_80"]))
    assert found.state is State.FIX
    assert "kernels for sm_75, sm_80 only" in found.found
    assert "has kernels for 7.0" in found.advice


@pytest.mark.parametrize(
    ("capability", "kernels", "runs"),
    [
        ((8, 9), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((7, 0), ["compute_75"], False),
        ((12, 1), ["sm_100", "sm_120f"], True),
        ((10, 3), ["sm_90a"], False),
        ((9, 0), [], True),
    ],
)
def test_kernels_run_on_newer_cards_of_their_major_version_and_ptx_on_all(capability, kernels, runs):
    assert Card("", capability, 1, 1, True, kernels).has_kernels is runs


def test_a_gpu_that_fails_does_not_hide_the_others(monkeypatch):
    def memory_of(index):
        if index == 0:
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors might")
        return 30 * GB, 32 * GB

    about = SimpleNamespace(name="Tesla V100", major=7, minor=0)
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "device": lambda index: nullcontext(),
        "get_device_properties": lambda index: about,
        "mem_get_info": memory_of,
        "get_arch_list": lambda: ["sm_70", "sm_90"],
        "is_bf16_supported": lambda including_emulation: including_emulation,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    busy, found = gpus.cards(None)
    assert (busy.name, busy.state) == ("GPU 0", State.FIX)
    assert busy.found == "cannot be used: CUDA error: all CUDA-capable devices are busy or unavailable"
    assert (found.name, found.state) == ("GPU 1", State.NOTE)
    assert found.found == "Tesla V100, compute capability 7.0, 30 GB of 32 GB free, no bf16"


def test_without_gpus_the_subject_finds_nothing_to_fix(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = {finding.name: finding for finding in examine(".", ["tissuebench.doctor.gpus"])}
    assert list(found)[-2:] == ["PyTorch", "NCCL"]
    assert State.FIX not in {finding.state for finding in found.values()}
    assert "could not be checked" not in found["PyTorch"].found
