"""Batches that are copied one step ahead: the same ones, in order, and no more than one ahead."""

import torch

from tests.pretended_gpu import GPU, Pretended, waits_of
from tissuebench.datasets.loading.datamodule import TileDataModule
from tissuebench.datasets.loading.prefetch import Prefetched
from tissuebench.datasets.types import DiagnosisBatch, MaskBatch, TrainingBatch

CPU = torch.device("cpu")


def batches(taken):
    for step in range(4):
        taken.append(step)
        yield TrainingBatch({"annotated": MaskBatch(step, torch.full((1, 3, 2, 2), step), masks=torch.zeros(1, 2, 2))})


def test_the_same_batches_one_ahead():
    taken = []
    ahead = iter(Prefetched(batches(taken), CPU))
    assert not taken
    for step in range(4):
        batch = next(ahead)
        assert isinstance(batch, TrainingBatch) and isinstance(batch["annotated"], MaskBatch)
        assert batch["annotated"].step == step and (batch["annotated"].images == step).all()
        assert taken == list(range(min(step + 2, 4)))
    assert next(ahead, None) is None


def test_nothing_to_copy():
    assert list(Prefetched([], CPU)) == []


def test_the_data_module_moves_all_tensors_without_waiting(monkeypatch):
    excluded = torch.tensor([[True, False]])
    tiles = DiagnosisBatch(0, torch.zeros(1, 3, 2, 2), features=(torch.zeros(1, 4, 1, 1),), excluded=excluded)
    module = TileDataModule.__new__(TileDataModule)
    with waits_of(monkeypatch) as waits:
        moved = module.transfer_batch_to_device(TrainingBatch(diagnosed=tiles), GPU, 0)["diagnosed"]
        again = module.transfer_batch_to_device(TrainingBatch(diagnosed=moved), GPU, 0)["diagnosed"]
        assert not waits
    for each in (moved, again):
        assert all(isinstance(tensor, Pretended) for tensor in each.tensors())
        assert len(list(each.tensors())) == 3
        assert each.excluded_sets is excluded  # stays readable on the host
    assert tiles.excluded_sets is excluded
    assert module.transfer_batch_to_device("a slide to score", GPU, 0) == "a slide to score"
