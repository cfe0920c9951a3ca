"""The line that tells why a task failed: a full GPU is one line that says which key to lower."""

from __future__ import annotations

import pytest
import torch

from tissuebench.errors import ConfigError, DataError
from tissuebench.sweep.reasons import is_out_of_gpu_memory, reason_of

FULL = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.19 GiB is free. "
    "Including non-PyTorch memory, this process has 14.57 GiB memory in use. Of the allocated memory 13.20 GiB is "
    "allocated by PyTorch, and 1.01 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is "
    "large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)


@pytest.mark.parametrize(
    ("error", "amount"),
    [
        (
            torch.OutOfMemoryError(FULL),
            "out of GPU memory (asked for 2.50 GiB of 15.77 GiB): lower training.batch_size",
        ),
        (torch.OutOfMemoryError("HIP is full"), "out of GPU memory: lower training.batch_size"),
        (RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), "out of GPU memory: lower"),
        (RuntimeError("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "out of GPU memory: lower"),
    ],
)
def test_a_full_gpu_names_the_keys(error, amount):
    said = reason_of(error)
    assert said.startswith(amount)
    assert "\n" not in said
    assert "compute.slots" in said
    assert is_out_of_gpu_memory(error)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DataError("slide7:\n cut off"), "slide7: cut off"),
        (ConfigError("a key"), "a key"),
        (RuntimeError("no [luck]\n at all"), "RuntimeError: no [luck] at all"),
        (MemoryError(), "MemoryError: "),
    ],
)
def test_other_failures_are_told_in_their_own_words(error, said):
    assert reason_of(error) == said
    assert not is_out_of_gpu_memory(error)
