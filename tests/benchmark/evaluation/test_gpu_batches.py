"""Sizes of batches: fixed on CPUs, by memory on GPUs, halved where they do not fit; counts stay the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.benchmark.evaluation.painted import store_of, view_of
from tests.benchmark.evaluation.test_evaluate import ByColour
from tissuebench.evaluation.evaluate import evaluate
from tissuebench.evaluation.gpu_batches import PIXELS_PER_BATCH, BatchLimit, affordable_pixels
from tissuebench.plans.schema import EvaluationSettings

CPU = torch.device("cpu")
GIB = 2**30


@pytest.mark.parametrize(
    ("n_bytes", "free", "pixels"),
    [
        (GIB, 8 * GIB, 4 * 2**19),  # half of 8 GiB holds four such batches
        (GIB, 80 * GIB, 2**22),
        (GIB, GIB, 2**19),  # never fewer than have just been predicted
        (0, GIB, 2**22),
    ],
)
def test_a_batch_takes_half_of_the_free_memory(n_bytes, free, pixels):
    assert affordable_pixels(2**19, n_bytes, free) == pixels


class FakeMemory:
    """Stands in for the allocator of a GPU: a batch of 2^19 px takes 1 GiB of the 9 GiB that are free."""

    def __init__(self, monkeypatch):
        self.reserved = GIB
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: self.reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GIB - self.reserved, 80 * GIB))


def test_the_first_whole_batch_sets_the_limit_of_a_gpu(monkeypatch):
    memory, limit = FakeMemory(monkeypatch), BatchLimit(torch.device("cuda"))
    assert limit.windows((256, 256)) == 8 and limit.windows((2048, 1024)) == 1
    limit.before_batch()
    limit.after_batch(2**16)  # one window
    assert limit.pixels == PIXELS_PER_BATCH
    limit.before_batch()
    memory.reserved += GIB
    limit.after_batch(2**19)
    assert limit.pixels == 4 * 2**19 + 2**18  # (8 GiB never reserved + 1 GiB kept) / 2 = 4.5 batches
    memory.reserved += GIB
    limit.after_batch(2**21)
    assert limit.pixels == 4 * 2**19 + 2**18  # measured once
    limit.halve(2**21)
    assert limit.windows((256, 256)) == 16


def test_demanded_determinism_keeps_batches_fixed(monkeypatch):
    memory = FakeMemory(monkeypatch)
    torch.use_deterministic_algorithms(True)
    try:
        limit = BatchLimit(torch.device("cuda"))
    finally:
        torch.use_deterministic_algorithms(False)
    limit.before_batch()
    memory.reserved += GIB
    limit.after_batch(2**19)
    assert limit.pixels == PIXELS_PER_BATCH


class Small(ByColour):
    """A method whose device holds a number of windows at once."""

    def __init__(self, holds):
        super().__init__()
        self.holds = holds

    def predict(self, images):
        if len(images) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().predict(images)


@pytest.fixture
def store(tmp_path):
    truth = np.random.default_rng(3).integers(0, 4, (130, 200), dtype=np.uint8)
    return store_of(tmp_path, {"one": (truth, truth, ("A",))})


def test_batches_that_do_not_fit_are_halved_and_every_pixel_is_counted(store):
    settings = EvaluationSettings(window_px=32, tta="flips")
    expected, found = (
        evaluate(method, store, view_of(store), settings, CPU, "32-true")[0] for method in (ByColour(), Small(3))
    )
    for name in ("counts", "boundaries", "calibration", "areas"):
        np.testing.assert_array_equal(getattr(expected, name), getattr(found, name))
    assert found.counts.sum() == 130 * 200


def test_a_single_window_that_does_not_fit_is_an_error(store):
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(Small(0), store, view_of(store), EvaluationSettings(window_px=32), CPU, "32-true")
