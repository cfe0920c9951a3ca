"""The one LightningDataModule: every method's batches come from here, in an order that seed and step alone decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tissuebench.datasets.augment import AugmentSettings, augment, orient_each
from tissuebench.datasets.sampling import Tree, draw, stream_tree
from tissuebench.datasets.store import TileStore
from tissuebench.datasets.types import Stream, Supervision, Tile, TileBatch, TrainingBatch
from tissuebench.datasets.views import LabelView
from tissuebench.hashing import derive_seed


class FeatureSource(Protocol):
    """Cached maps of a frozen encoder, a few augmented variants a tile."""

    n_variants: int

    def read(self, tiles: Sequence[Tile], variants: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Maps, finest first, each (B, C, H, W), and the orientation of each variant, (B,) int64."""
        ...


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """How batches get to the device; never changes what is in them."""

    num_workers: int = 0
    pin_memory: bool = False


class StepDataset(Dataset[TrainingBatch]):
    """Item ``step`` is the whole batch of that step."""

    def __init__(
        self,
        store: TileStore,
        view: LabelView,
        streams: Mapping[str, Stream],
        seed: int,
        features: FeatureSource | None,
    ) -> None:
        self._store, self._view, self._streams = store, view, dict(streams)
        self._seed, self._features = seed, features
        self._tile_px = store.info.tile_px
        self._trees: dict[str, Tree] = {
            name: stream_tree(name, stream, store, view, self._tile_px, seed) for name, stream in self._streams.items()
        }

    def __getitem__(self, step: int) -> TrainingBatch:
        return {name: self._batch(name, stream, step) for name, stream in self._streams.items()}

    def _batch(self, name: str, stream: Stream, step: int) -> TileBatch:
        rng = np.random.Generator(np.random.PCG64(derive_seed(self._seed, "order", name, step)))
        tiles = [draw(self._trees[name], rng) for _ in range(stream.batch_size)]
        size = self._tile_px
        batch = TileBatch(step=step)
        orientations: Tensor | None = None
        if self._features is None:
            images = np.stack([self._store.image(tile.slide_id, tile.y, tile.x, size, size) for tile in tiles])
            batch = replace(batch, images=torch.from_numpy(images))
        else:
            variants = rng.integers(self._features.n_variants, size=len(tiles)).tolist()
            features, orientations = self._features.read(tiles, variants)
            batch = replace(batch, features=features)
        if stream.supervision is Supervision.MASKS:
            masks = torch.from_numpy(np.stack([self._view.mask(tile, size, size) for tile in tiles])).long()
            return replace(batch, masks=masks if orientations is None else orient_each(masks, orientations))
        if stream.supervision is Supervision.TAGS:
            return replace(batch, tags=torch.from_numpy(np.stack([self._view.tags(tile, size) for tile in tiles])))
        if stream.supervision is Supervision.DIAGNOSIS:
            excluded = np.stack([self._view.excluded(tile.slide_id, stream.max_excluded, self._seed) for tile in tiles])
            return replace(batch, excluded=torch.from_numpy(excluded))
        return batch


class StepSampler(Sampler[int]):
    """Steps from ``start`` to ``stop``: a resumed fit goes on with exactly the next batch."""

    def __init__(self, start: int, stop: int) -> None:
        self._steps = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


class TileDataModule(LightningDataModule):
    """Batches of one training stage.

    Args:
        store: the tiles.
        view: the labels that this trial may see.
        streams: what the method asked for, by name.
        seed: of the trial; order and augmentation derive their own from it.
        steps: optimiser steps of the stage.
        augmentation: strength; unused with ``features``, which were augmented when they were computed.
        features: maps of a frozen encoder in place of images.
        loader: workers and pinned memory.
    """

    def __init__(
        self,
        store: TileStore,
        view: LabelView,
        streams: Mapping[str, Stream],
        seed: int,
        steps: int,
        augmentation: AugmentSettings,
        features: FeatureSource | None = None,
        loader: LoaderSettings | None = None,
    ) -> None:
        super().__init__()
        self._dataset = StepDataset(store, view, streams, seed, features)
        self._seed, self._steps, self._augmentation = seed, steps, augmentation
        self._loader = loader or LoaderSettings()

    def train_dataloader(self) -> DataLoader[TrainingBatch]:
        """The steps that are left, one batch each."""
        done = self.trainer.global_step if self.trainer is not None else 0
        return DataLoader(
            self._dataset,
            batch_size=None,
            sampler=StepSampler(done, self._steps),
            num_workers=self._loader.num_workers,
            persistent_workers=self._loader.num_workers > 0,
            multiprocessing_context="spawn" if self._loader.num_workers else None,
            pin_memory=self._loader.pin_memory,
        )

    def on_after_batch_transfer(self, batch: TrainingBatch, dataloader_idx: int) -> TrainingBatch:
        """Augment on the device; labels turn with their images."""
        return {name: self._augmented(name, stream_batch) for name, stream_batch in batch.items()}

    def _augmented(self, name: str, batch: TileBatch) -> TileBatch:
        if batch.images is None:
            return batch
        seed = derive_seed(self._seed, "augment", name, batch.step)
        images, orientations = augment(batch.images, seed, self._augmentation)
        masks = None if batch.masks is None else orient_each(batch.masks, orientations)
        return replace(batch, images=images, masks=masks)
