"""LightningDataModule for all methods: batches in an order that only depends on seed and step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tissuebench.common.hashing import derive_seed
from tissuebench.common.own_settings import in_place_of
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.augment import augment, orient_arrays
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.loading.prefetch import Prefetched
from tissuebench.datasets.loading.sampling import Tree, distinct_tiles, draw, shuffled_places, stream_tree
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.types import Stream, Supervision, Tile, TileBatch, TrainingBatch
from tissuebench.errors import ConfigError

BatchT = TypeVar("BatchT")


class FeatureSource(Protocol):
    """Cached maps of a frozen encoder, with a few augmented variants per tile.

    Attributes:
        n_variants: variants of each tile.
        is_in_memory: whether a copy in another process would take as much memory again.
    """

    n_variants: int
    is_in_memory: bool

    def read(self, tiles: Sequence[Tile], variants: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return maps, finest first, each (B, C, H, W), and the orientation of each variant, (B,) int64."""
        ...


class PseudoSource(Protocol):
    """Pseudo-masks that an earlier stage computed for tiles."""

    @property
    def tiles(self) -> Collection[Tile]:
        """Tiles with pseudo-masks."""
        ...

    def read(self, tiles: Sequence[Tile]) -> NDArray[np.uint8]:
        """Return the class ids of the tiles' pseudo-masks, (B, L, H, W) uint8."""
        ...


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """Settings for loading batches; they never change the content of a batch.

    Attributes:
        num_workers: processes that load batches; 0: this one.
        pin_memory: whether batches are in page-locked memory.
        prefetch_to: device to which a batch is copied while the step before it runs.
        start_method: how the workers are started. ``forkserver``: from a process that has imported everything once
            and lives as long as this one, so that those of the next stage start in a tenth of a second.
    """

    num_workers: int = 0
    pin_memory: bool = False
    prefetch_to: torch.device | None = None
    start_method: Literal["forkserver", "spawn", "fork"] = "forkserver"


class StepDataset(Dataset[TrainingBatch]):
    """Dataset whose item ``step`` is the whole batch of that step, or this process's part after ``shard``."""

    def __init__(
        self,
        store: TileStore,
        view: LabelView,
        streams: Mapping[str, Stream],
        seed: int,
        features: FeatureSource | None,
        pseudo: Mapping[str, PseudoSource] | None = None,
    ) -> None:
        self._store, self._view, self._streams = store, view, dict(streams)
        self._seed, self._features, self._pseudo = seed, features, dict(pseudo or {})
        self._tile_px = store.info.tile_px
        self._rank, self._world_size = 0, 1
        self._trees: dict[str, Tree] = {}
        for name, stream in self._streams.items():
            if stream.pseudo is not None and stream.pseudo not in self._pseudo:
                raise ConfigError(
                    f"stream {name!r} wants pseudo-masks of {stream.pseudo!r}, no earlier stage makes them"
                )
            among = None if stream.pseudo is None else self._pseudo[stream.pseudo].tiles
            self._trees[name] = stream_tree(name, stream, store, view, self._tile_px, seed, among)
        self._shuffled = {name: self.tiles(name) for name, stream in self._streams.items() if stream.shuffled}

    def shard(self, rank: int, world_size: int) -> StepDataset:
        """Return the part of one process: of every stream's B tiles, those from r B // W to (r + 1) B // W (exclusive).

        Raises:
            ConfigError: a stream has fewer tiles per step than there are processes.
        """
        for name, stream in self._streams.items():
            if stream.batch_size < world_size:
                raise ConfigError(
                    f"stream {name!r}: a batch size of {stream.batch_size} cannot be shared by {world_size} processes; "
                    "raise the batch size or take fewer processes"
                )
        part = copy.copy(self)
        part._rank, part._world_size = rank, world_size
        return part

    def __getitem__(self, step: int) -> TrainingBatch:
        return TrainingBatch((name, self._batch(name, stream, step)) for name, stream in self._streams.items())

    def _batch(self, name: str, stream: Stream, step: int) -> TileBatch:
        rng = np.random.Generator(np.random.PCG64(derive_seed(self._seed, "order", name, step)))
        total = stream.batch_size
        mine = slice(self._rank * total // self._world_size, (self._rank + 1) * total // self._world_size)
        if stream.shuffled:
            among = self._shuffled[name]
            places = shuffled_places(self._seed, name, len(among), step * total, (step + 1) * total)[mine]
            tiles = [among[place] for place in places]
        else:
            tiles = [draw(self._trees[name], rng) for _ in range(total)][mine]  # all are drawn, so processes agree
        variants = None
        if self._features is not None:
            variants = rng.integers(self._features.n_variants, size=total).tolist()[mine]
        return replace(self._load(stream, tiles, variants), step=step, offset=mine.start, total=total)

    def tiles(self, name: str) -> list[Tile]:
        """Return the tiles that a stream can draw, without duplicates, slide by slide."""
        return distinct_tiles(self._trees[name])

    def tags(self, name: str) -> Tensor:
        """Return the tags of the tiles of a ``tags`` stream, (N, K) bool in the order of ``tiles``."""
        return torch.from_numpy(self._view.tags_of(self.tiles(name)))

    def all_tags(self) -> dict[str, Tensor]:
        """Return ``tags`` for every ``tags`` stream, by name."""
        return {name: self.tags(name) for name, one in self._streams.items() if one.supervision is Supervision.TAGS}

    @property
    def n_untagged(self) -> int:
        """Number of bought tiles whose tags name no class; 0 without a grouped ``tags`` stream, which draws none."""
        asks = any(stream.supervision is Supervision.TAGS and stream.is_grouped for stream in self._streams.values())
        return self._view.n_untagged if asks else 0

    def load(self, name: str, tiles: Sequence[Tile]) -> TileBatch:
        """Return tiles of a stream without augmentation, with the label that the stream requests.

        Their images are included even if features replace them, and so are all bought masks, from whatever stream:
        ``IGNORE_LABEL`` for tiles without a mask, None if no tile has one.
        """
        batch = self._load(self._streams[name], tiles, None if self._features is None else [0] * len(tiles))
        if batch.masks is None:
            masks = self._view.masks_if_bought(tiles, self._tile_px)
            batch = replace(batch, masks=None if masks is None else torch.from_numpy(masks))
        return batch if batch.images is not None else replace(batch, images=self._images(tiles))

    def _load(self, stream: Stream, tiles: Sequence[Tile], variants: Sequence[int] | None) -> TileBatch:
        parts: dict[str, Any] = {}
        orientations: list[int] | None = None
        if self._features is None or variants is None:
            parts["images"] = self._images(tiles)
        else:
            parts["features"], turned = self._features.read(tiles, variants)
            orientations = turned.tolist()
        if stream.pseudo is not None:
            parts["pseudo_masks"] = _oriented(self._pseudo[stream.pseudo].read(tiles), orientations)
        if stream.supervision is Supervision.MASKS:
            parts["masks"] = _oriented(self._view.masks(tiles, self._tile_px), orientations)
        elif stream.supervision is Supervision.TAGS:
            parts["tags"] = torch.from_numpy(self._view.tags_of(tiles))
        elif stream.supervision is Supervision.DIAGNOSIS:
            excluded = np.stack([self._view.excluded(tile.slide_id, stream.max_excluded, self._seed) for tile in tiles])
            parts["excluded"] = torch.from_numpy(excluded)
        return stream.batch_type(step=0, **parts)

    def _images(self, tiles: Sequence[Tile]) -> Tensor:
        return torch.from_numpy(self._store.images(tiles, self._tile_px))


def _oriented(labels: NDArray[np.uint8], orientations: Sequence[int] | None) -> Tensor:
    return torch.from_numpy(labels if orientations is None else orient_arrays(labels, orientations))


class StepSampler(Sampler[int]):
    """Sampler of the steps from ``start`` to ``stop``: a resumed fit picks up at exactly the next batch."""

    def __init__(self, start: int, stop: int) -> None:
        self._steps = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


class StepLoader:
    """Loader of the remaining steps' batches, with the ``state_dict`` that Lightning stores in a checkpoint.

    Its length is that of the whole stage, whatever the start: Lightning compares the length with the batches since the
    first step, and a shorter loader would end the epoch early and start over. It wraps a ``DataLoader`` instead of
    being one, because Lightning replaces the sampler of a ``DataLoader`` when there are several processes.

    Args:
        dataset: this process's part.
        start: first step.
        stop: number of steps of the stage.
        settings: workers and pinned memory.
        done: returns the number of completed steps; by default the number of batches yielded. Batches queued in a
            worker or in Lightning, or copied ahead, do not count in either case.
    """

    def __init__(
        self,
        dataset: StepDataset,
        start: int,
        stop: int,
        settings: LoaderSettings,
        done: Callable[[], int] | None = None,
    ) -> None:
        self._dataset, self._start, self._stop, self._settings = dataset, start, stop, settings
        self._handed_out = start
        self._done = done or (lambda: self._handed_out)

    def __iter__(self) -> Iterator[TrainingBatch]:
        workers, context = self._settings.num_workers, None
        if workers:
            context = get_context(self._settings.start_method)
            context.set_forkserver_preload([__name__])
        loader: Iterable[TrainingBatch] = DataLoader(
            self._dataset,
            batch_size=None,
            sampler=StepSampler(self._start, self._stop),
            num_workers=workers,
            multiprocessing_context=context,
            pin_memory=self._settings.pin_memory,
        )
        if self._settings.prefetch_to is not None:
            loader = Prefetched(loader, self._settings.prefetch_to)
        for step, batch in enumerate(loader, self._start):
            self._handed_out = step + 1
            yield batch

    def __len__(self) -> int:
        return self._stop

    def state_dict(self) -> dict[str, int]:
        """Return the next step."""
        return {"step": self._done()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start at the stored step in the next iteration."""
        self._start = self._handed_out = state["step"]


def stream_augmentation(name: str, stream: Stream, shared: AugmentSettings, caches_features: bool) -> AugmentSettings:
    """Return the augmentation of a stream: the plan's, with the stream's own settings in place.

    Raises:
        ConfigError: one of its own settings is wrong, or cached features replace its images.
    """
    if stream.augmentation and caches_features:
        raise ConfigError(
            f"stream {name!r} has an augmentation of its own, while cached features were augmented when they were "
            "computed; set network.feature_cache=off or network.encoder_mode=finetune"
        )
    try:
        return in_place_of(shared, stream.augmentation)
    except ConfigError as error:
        raise ConfigError(f"stream {name!r}: augmentation: {error}") from None


class TileDataModule(LightningDataModule):
    """Data module of one training stage; with several processes, each gets its part of every batch.

    The optimiser's step determines the next batch, so a resumed fit picks up at exactly the next one.

    Args:
        store: the tiles.
        view: the labels that this trial may access.
        streams: streams that the method requests, by name.
        seed: seed of the trial, from which those of order and augmentation are derived.
        steps: optimiser steps of the stage.
        augmentation: settings for all streams, as far as a stream has none of its own; unused with ``features``, which
            were augmented when they were computed.
        features: maps of a frozen encoder that replace images.
        loader: workers and pinned memory.
        pseudo: pseudo-masks of earlier stages, by the stage's name.

    Attributes:
        held_out: loaders of Lightning's validation loop; none by default.

    Raises:
        ConfigError: a stream has no tiles, its own augmentation is wrong or comes with ``features``, or a crop is
            larger than a tile.
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
        pseudo: Mapping[str, PseudoSource] | None = None,
    ) -> None:
        super().__init__()
        self.steps = StepDataset(store, view, streams, seed, features, pseudo)
        self._seed, self._steps = seed, steps
        self._augmentations = {
            name: stream_augmentation(name, stream, augmentation, features is not None)
            for name, stream in streams.items()
        }
        for name, settings in self._augmentations.items():
            settings.check_crop(store.info.tile_px, f"stream {name!r}: augmentation.crop_px")
        self._loader = loader or LoaderSettings()
        if features is not None and features.is_in_memory:
            self._loader = replace(self._loader, num_workers=0)
        self._restored = 0
        self.held_out: Sequence[Iterable[object]] = ()

    @property
    def _step(self) -> int:
        """Completed optimiser steps: the trainer's, or those of the loaded state if there is no trainer."""
        return self._restored if self.trainer is None else self.trainer.global_step

    def train_dataloader(self) -> StepLoader:
        """Return a loader of the remaining steps, one batch each.

        Raises:
            ConfigError: there are more processes than tiles in a stream's batch.
        """
        if self.trainer is None:
            return StepLoader(self.steps, self._step, self._steps, self._loader)
        part = self.steps.shard(self.trainer.global_rank, self.trainer.world_size)
        return StepLoader(part, self._step, self._steps, self._loader, done=lambda: self._step)

    def val_dataloader(self) -> list[Iterable[object]]:
        """Return ``held_out``."""
        return list(self.held_out)

    def state_dict(self) -> dict[str, int]:
        """Return the next step."""
        return {"step": self._step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Resume at the stored step; with a trainer, its own restored step is the same."""
        self._restored = state_dict["step"]

    def transfer_batch_to_device(
        self, batch: BatchT, device: torch.device, dataloader_idx: int
    ) -> BatchT | TrainingBatch:
        """Move a batch that is not there yet without waiting; Lightning moves only bare tensors this way."""
        return batch.to(device, non_blocking=True) if isinstance(batch, TrainingBatch) else batch

    def on_after_batch_transfer(self, batch: BatchT, dataloader_idx: int) -> BatchT | TrainingBatch:
        """Augment on the device; labels undergo the same geometry as their images. Validation is left as it is."""
        if not isinstance(batch, TrainingBatch):
            return batch
        return TrainingBatch((name, self._augmented(name, tiles)) for name, tiles in batch.items())

    def _augmented(self, name: str, batch: TileBatch) -> TileBatch:
        images, masks, pseudo_masks = batch.images, batch.masks, batch.pseudo_masks
        if images is not None:
            seed = derive_seed(self._seed, "augment", name, batch.step)
            images, geometry = augment(images, seed, self._augmentations[name], batch.offset, batch.total or None)
            masks = None if masks is None else geometry.apply_to_labels(masks)
            pseudo_masks = None if pseudo_masks is None else geometry.apply_to_labels(pseudo_masks)
        labels: dict[str, Any] = {
            name: labels.long()
            for name, labels in (("masks", masks), ("pseudo_masks", pseudo_masks))
            if labels is not None
        }
        return replace(batch, images=images, **labels)
