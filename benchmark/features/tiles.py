"""Features of training tiles, each with a few augmented variants; shared by every method, budget and seed."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tissuebench.common.hashing import Json, derive_seed
from tissuebench.datasets.loading.augment import augment
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.store.tiling import grid, offsets
from tissuebench.datasets.types import Tile
from tissuebench.errors import ConfigError
from tissuebench.features.records import Batch, Block, Encoding, Maps, Records, flattened, open_shard
from tissuebench.features.shards import (
    MAX_SHARDS,
    TILES,
    FeatureShard,
    FrozenEncoder,
    MapShapes,
    n_values,
)
from tissuebench.methods.networks import build_segmenter
from tissuebench.methods.networks.settings import NetworkSettings

_BATCH = 16
_MIN_SHARD_TILES = 8 * _BATCH


def training_tiles(store: TileStore, split: Split) -> list[Tile]:
    """Return all grid tiles of the training part, slide by slide."""
    train = set(split.patients("train"))
    return [
        tile for slide in store.slides.values() if slide.patient_id in train for tile in grid(slide, store.info.tile_px)
    ]


def plan_tiles(
    encoder: FrozenEncoder, augmentation: AugmentSettings, store: TileStore, split: Split
) -> list[FeatureShard]:
    """Return the shards that hold the features of all training tiles, fixed ranges of their list.

    Raises:
        ConfigError: the plan scales or crops tiles, while the masks of cached features can be turned, but nothing else.
    """
    for key, what in (("scale", "scaled"), ("crop_px", "cropped")):
        if getattr(augmentation, key):
            raise ConfigError(
                f"augmentation.{key} needs network.encoder_mode: finetune or network.feature_cache: off; "
                f"cached features cannot be {what}"
            )
    edge, network = store.info.tile_px, encoder.network
    common: dict[str, Json] = {
        **encoder.identity,
        "of": TILES,
        "store": store.content_hash,
        "split": split.sha256,
        "tile_px": edge,
        "variants": network.feature_variants,
        "dtype": network.feature_dtype.value,
        "augmentation": augmentation.identity(),
    }
    record = tile_bytes(network, encoder.shapes, edge)
    train = set(split.patients("train"))
    counts = {
        slide.slide_id: len(offsets(slide.height, edge)) * len(offsets(slide.width, edge))
        for slide in store.slides.values()
        if slide.patient_id in train
    }
    n_tiles = sum(counts.values())
    size = max(_MIN_SHARD_TILES, -(-n_tiles // (MAX_SHARDS * _BATCH)) * _BATCH)
    starts = range(0, n_tiles, size)
    shards = []
    for number, start in enumerate(starts, start=1):
        stop = min(start + size, n_tiles)
        shards.append(
            FeatureShard(
                {**common, "start": start, "stop": stop},
                slides=_overlapping(counts, start, stop),
                images=stop - start,
                n_bytes=(stop - start) * record,
                number=number,
                count=len(starts),
            )
        )
    return shards


def tile_bytes(network: NetworkSettings, shapes: MapShapes, tile_px: int) -> int:
    """Return the bytes of the features of a training tile, all variants."""
    value = np.dtype(network.feature_dtype.value).itemsize
    return network.feature_variants * (n_values(shapes.of(tile_px, tile_px)) * value + 1)


def _overlapping(counts: dict[str, int], start: int, stop: int) -> frozenset[str]:
    """Return the slides with tiles in a range of the list of all tiles, given the number of tiles of each slide."""
    found, first = set(), 0
    for slide_id, count in counts.items():
        if first < stop and first + count > start:
            found.add(slide_id)
        first += count
    return frozenset(found)


def tile_encoding(
    identity: dict[str, Json],
    network: NetworkSettings,
    augmentation: AugmentSettings,
    store: TileStore,
    split: Split,
    device: torch.device,
) -> Encoding[Tensor]:
    """Return the work of computing a shard of ``plan_tiles``.

    Variant 0 is the unchanged tile; the others are augmented as ``augment`` does for images.
    """
    model = build_segmenter(network, len(store.class_map)).eval().to(device)
    edge, n_variants = store.info.tile_px, network.feature_variants
    first, last = identity["start"], identity["stop"]
    assert isinstance(first, int) and isinstance(last, int)  # noqa: S101 - as planned
    tiles = training_tiles(store, split)[first:last]
    shapes = MapShapes(network, len(store.class_map)).of(edge, edge)
    places: dict[str, list[tuple[int, int]]] = {}
    for tile in tiles:
        places.setdefault(tile.slide_id, []).append((tile.y, tile.x))
    starts = range(0, len(tiles), _BATCH)

    def read(number: int) -> Tensor:
        start = starts[number]
        images = torch.from_numpy(store.images(tiles[start : start + _BATCH], edge))
        return images.pin_memory() if device.type == "cuda" else images

    @torch.inference_mode()
    def encode(number: int, read: Tensor) -> tuple[list[Tensor], NDArray[np.uint8]]:
        start, images = starts[number], read.to(device, non_blocking=True)
        orientations = np.zeros((len(images), n_variants), dtype=np.uint8)
        records = []
        for variant in range(n_variants):
            batch = images
            if variant > 0:
                batch, geometry = augment(images, derive_seed("features", variant, first + start), augmentation)
                orientations[:, variant] = geometry.orientations
            records.append(flattened(model.encode(batch), network.feature_dtype.value))
        return records, orientations

    return Encoding(
        identity,
        [Block(slide_id, edge, edge, tuple(some), shapes) for slide_id, some in places.items()],
        n_variants,
        network.feature_dtype.value,
        [Batch(min(_BATCH, len(tiles) - start), n_values(shapes)) for start in starts],
        read,
        encode,
    )


class TileFeatures:
    """Features of training tiles, one record per tile and variant with all levels: one read per sample.

    A ``FeatureSource``. Shards on disk are opened again by each process that receives a copy.

    Args:
        shards: folders of shards on disk, or shards in memory.

    Raises:
        DataError: a shard is damaged.
    """

    def __init__(self, shards: Sequence[Path | Records]) -> None:
        self._sources = tuple(shards)
        self.is_in_memory = any(isinstance(shard, Records) for shard in self._sources)
        self._open()

    def _open(self) -> None:
        opened = [shard if isinstance(shard, Records) else open_shard(shard) for shard in self._sources]
        self._where: dict[Tile, tuple[Maps, NDArray[np.uint8], int]] = {}
        for shard in opened:
            for block, maps, turns in zip(shard.blocks, shard.maps, shard.orientations, strict=True):
                for row, (y, x) in enumerate(block.places):
                    self._where[Tile(block.slide_id, y, x)] = (maps, turns, row)
        self.n_variants = opened[0].n_variants
        shapes = opened[0].blocks[0].shapes
        self._levels: list[tuple[tuple[int, ...], tuple[int, ...], int]] = []  # shape, strides, where it begins
        self._length = 0
        for channels, height, width in shapes:
            self._levels.append(((channels, height, width), (height * width, width, 1), self._length))
            self._length += math.prod((channels, height, width))
        self._dtype = torch.from_numpy(np.empty(0, opened[0].maps[0].dtype)).dtype

    def __getstate__(self) -> dict[str, object]:
        return {"_sources": self._sources, "is_in_memory": self.is_in_memory}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()

    def read(self, tiles: Sequence[Tile], variants: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return maps, finest first, each (B, C, H, W), and the orientation of each variant, (B,) int64."""
        records = torch.empty((len(tiles), self._length), dtype=self._dtype)
        target = records.numpy()
        orientations = np.empty(len(tiles), dtype=np.int64)
        for place, (tile, variant) in enumerate(zip(tiles, variants, strict=True)):
            maps, turns, row = self._where[tile]
            target[place] = maps[row, variant]
            orientations[place] = turns[row, variant]
        levels = tuple(
            records.as_strided((len(tiles), *shape), (self._length, *strides), start)
            for shape, strides, start in self._levels
        )
        return levels, torch.from_numpy(orientations)


def needed_shards(shards: Sequence[FeatureShard], slides: Collection[str]) -> list[FeatureShard]:
    """Return the shards with features of any of these slides, in order."""
    wanted = frozenset(slides)
    return [shard for shard in shards if not wanted.isdisjoint(shard.slides)]
