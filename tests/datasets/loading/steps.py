"""Streams, views and training steps of the tiny data, with digests to compare; run as a program, prints digests."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch

from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.datamodule import StepDataset, TileDataModule
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.types import Stream, Supervision, TileBatch

SEED = 12
MASKS, DIAGNOSED = Stream(Supervision.MASKS, 4), Stream(Supervision.DIAGNOSIS, 3)
STREAMS = {"annotated": MASKS, "diagnosed": DIAGNOSED, "tagged": Stream(Supervision.TAGS, 2)}
STREAMS["any"] = Stream(Supervision.NONE, 2)
ALL_KINDS = frozenset({Supervision.MASKS, Supervision.TAGS, Supervision.DIAGNOSIS})


def view_of(store, split, spec="masks:3p", kinds=ALL_KINDS):
    return LabelView.for_training(store, split, draw_budget(store, split, spec, 0), kinds)


def dataset_of(store, split, streams=STREAMS, seed=SEED):
    return StepDataset(store, view_of(store, split), streams, seed, None)


def module_of(tiny_data, augmentation, steps=5, **options):
    view = view_of(tiny_data.store, tiny_data.split)
    return TileDataModule(tiny_data.store, view, STREAMS, SEED, steps, augmentation, **options)


def digest(batch: TileBatch) -> str:
    found = hashlib.sha256(str(batch.step).encode())
    for tensor in (batch.images, batch.masks, batch.tags, batch.excluded):
        found.update(b"none" if tensor is None else str(tensor.dtype).encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def digests(item) -> dict[str, str]:
    return {name: digest(batch) for name, batch in item.items()}


class Bank:
    """Features that tell which tile and variant they came from; variant v was turned by v."""

    n_variants = 4
    is_in_memory = False

    def read(self, tiles, variants):
        marks = torch.tensor([[tile.y, tile.x, variant] for tile, variant in zip(tiles, variants, strict=True)])
        return (marks[:, :, None, None].float(),), torch.tensor(variants)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    steps = dataset_of(TileStore(folder / "store.zarr"), Split.read(folder / "split.json"))
    print(*(value for step in (4, 1) for value in digests(steps[step]).values()))
