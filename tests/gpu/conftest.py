"""Devices of these tests: ``cpu`` always, ``cuda`` with the marker ``gpu`` (`make test-gpu`), skipped without a GPU.

Each test is a function of its device, so that what runs on a GPU is known to run. A test that would take a core too
long is left to `make test-all` there.
"""

from __future__ import annotations

import functools

import pytest
import torch

from tests.benchmark.conftest import bench, display  # noqa: F401 - fixtures
from tests.gpu.stages import Lab
from tissuebench.datasets.loading.datamodule import LoaderSettings
from tissuebench.methods.api.stage import Trainable
from tissuebench.plans.expand import PlannedData
from tissuebench.runtime.determinism import prepare_process
from tissuebench.runtime.machine import Machine
from tissuebench.runtime.precision import FP32

_NO_GPU = "no CUDA device (torch.cuda.is_available() is false)"
_FIRST_SCALE = 256.0


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        devices = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
        metafunc.parametrize("device", devices, indirect=True)


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow_on_cpu") and item.callspec.params["device"] == "cpu":
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip(_NO_GPU)


@pytest.fixture
def device(request, monkeypatch):
    """The device of the test; with ``cpu`` nothing sees a GPU, and with ``cuda`` float32 is float32, not TF32."""
    if request.param == "cpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield torch.device("cpu")
        return
    prepare_process()
    before = (
        torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark,
    )  # fmt: skip
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = False, False
    torch.set_float32_matmul_precision("highest")
    yield torch.device("cuda", 0)
    torch.backends.cudnn.allow_tf32, precision, torch.backends.cudnn.benchmark = before
    torch.set_float32_matmul_precision(precision)
    torch.cuda.empty_cache()


@pytest.fixture
def machine(device):
    """Makes the settings of the device in a precision."""

    def make(precision=FP32, at=device):
        return Machine(
            "gpu" if at.type == "cuda" else "cpu", at, precision, LoaderSettings(pin_memory=at.type == "cuda")
        )

    return make


@pytest.fixture
def low_scale(monkeypatch):
    """Start float16 at a scale that does not overflow: torch's own, 65536, skips the first steps until it fits."""
    init = torch.amp.GradScaler.__init__
    monkeypatch.setattr(torch.amp.GradScaler, "__init__", functools.partialmethod(init, init_scale=_FIRST_SCALE))


@pytest.fixture
def whole_losses(monkeypatch):
    """Let every term of a loss count from the first step on, as at the end of a stage."""
    monkeypatch.setattr(Trainable, "progress", property(lambda stage: 1.0))


@pytest.fixture
def lab(tiny_data, tmp_path):
    return Lab(PlannedData(tiny_data.store, tiny_data.split), tmp_path)
