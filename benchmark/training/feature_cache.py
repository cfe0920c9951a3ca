"""Features of a frozen encoder: computed once per store and encoder, shared by every method, budget and seed.

The training tiles are split into shards, which are tasks of the graph: several processes compute them in parallel, and
an interrupted shard picks up at the batch where it left off.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tissuebench.common.hashing import Json, derive_seed
from tissuebench.datasets.documents import read_hashed_json, write_hashed_json
from tissuebench.datasets.loading.augment import AugmentSettings, augment
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.types import Tile
from tissuebench.errors import ConfigError
from tissuebench.methods.networks import build_segmenter
from tissuebench.methods.networks.encoder_weights import weights_sha256
from tissuebench.methods.networks.settings import NetworkSettings
from tissuebench.plans.trial import short_hash

_VERSION = 4
_BATCH = 16
_MIN_SHARD_TILES, _MAX_SHARDS = 8 * _BATCH, 64
_INDEX, _MAPS, _ORIENTATIONS = "index.json", "maps.f16", "orientations.u8"


@dataclass(frozen=True, slots=True)
class FeatureShard:
    """A range of the training tiles, from ``start`` up to but excluding ``stop``.

    ``key`` covers store, split, tile size, encoder weights, levels, augmentation and the range, so that features
    computed under other settings are never read.
    """

    key: str
    start: int
    stop: int
    identity: dict[str, Json]


def training_tiles(store: TileStore, split: Split) -> list[Tile]:
    """Return all grid tiles of the training part, slide by slide."""
    train = set(split.patients("train"))
    return [
        tile for slide in store.slides.values() if slide.patient_id in train for tile in grid(slide, store.info.tile_px)
    ]


def plan_features(
    network: NetworkSettings, augmentation: AugmentSettings, store: TileStore, split: Split
) -> list[FeatureShard]:
    """Return the shards that hold the features of all training tiles; their number depends only on the number of tiles.

    Raises:
        ConfigError: the network cannot be built, or the plan scales tiles, while the masks of cached features can be
            turned but not scaled.
    """
    if augmentation.scale:
        raise ConfigError("augmentation.scale needs network.encoder_mode: finetune; cached features cannot be scaled")
    identity: dict[str, Json] = {
        "version": _VERSION,
        "store": store.content_hash,
        "split": split.sha256,
        "tile_px": store.info.tile_px,
        "encoder": network.encoder,
        "weights": weights_sha256(network),
        "decoder": network.decoder,
        "depths": network.depths,
        "variants": network.feature_variants,
        "augmentation": augmentation.model_dump(mode="json"),
    }
    n_tiles = len(training_tiles(store, split))
    size = max(_MIN_SHARD_TILES, -(-n_tiles // (_MAX_SHARDS * _BATCH)) * _BATCH)
    shards = []
    for start in range(0, n_tiles, size):
        own: dict[str, Json] = {**identity, "start": start, "stop": min(start + size, n_tiles)}
        shards.append(FeatureShard(short_hash(own), start, min(start + size, n_tiles), own))
    return shards


@torch.inference_mode()
def compute_features(
    folder: Path,
    shard: FeatureShard,
    network: NetworkSettings,
    augmentation: AugmentSettings,
    store: TileStore,
    split: Split,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> None:
    """Compute a shard in ``folder``, picking up at the batch where an earlier attempt left off.

    Variant 0 is the unchanged tile; the others are augmented as ``augment`` does for images.

    """
    model = build_segmenter(network, len(store.class_map)).to(device).eval()
    size, n_variants = store.info.tile_px, network.feature_variants
    tiles = training_tiles(store, split)
    shapes = [list(level.shape[1:]) for level in model.encode(torch.zeros((1, 3, size, size), device=device))]
    length = sum(math.prod(shape) for shape in shapes)
    with (folder / _MAPS).open("ab") as maps, (folder / _ORIENTATIONS).open("ab") as turns:
        done = min(maps.tell() // (2 * length), turns.tell()) // (n_variants * _BATCH) * _BATCH
        maps.truncate(2 * length * n_variants * done)
        turns.truncate(n_variants * done)
        for start in range(shard.start + done, shard.stop, _BATCH):
            stop = min(start + _BATCH, shard.stop)
            images = torch.from_numpy(store.images(tiles[start:stop], size)).to(device)
            records = np.empty((stop - start, n_variants, length), dtype=np.float16)
            orientations = np.zeros((stop - start, n_variants), dtype=np.uint8)
            for variant in range(n_variants):
                batch = images
                if variant > 0:
                    batch, geometry = augment(images, derive_seed("features", variant, start), augmentation)
                    orientations[:, variant] = geometry.orientations
                levels = [level.to(torch.float16).cpu().flatten(1) for level in model.encode(batch)]
                records[:, variant] = torch.cat(levels, dim=1).numpy()
            maps.write(records.data)
            turns.write(orientations.data)
            progress(stop - shard.start, shard.stop - shard.start)
        for file in (maps, turns):
            file.flush()
            os.fsync(file.fileno())
    write_hashed_json(folder / _INDEX, {**shard.identity, "shapes": shapes})


class FeatureBank:
    """Float16 feature maps, one record per tile and variant with all levels: one read per sample. A ``FeatureSource``.

    Args:
        folders: the folders of all shards, in order.
        tiles: the training tiles, as ``training_tiles`` lists them.
    """

    def __init__(self, folders: Sequence[Path], tiles: Sequence[Tile]) -> None:
        self._folders = tuple(folders)
        self._rows = {tile: row for row, tile in enumerate(tiles)}
        self._starts: list[int] = []
        for folder in folders:
            index, _ = read_hashed_json(folder / _INDEX)
            self._starts.append(cast("int", index["start"]))
        self.n_variants = cast("int", index["variants"])
        self._levels: list[tuple[tuple[int, ...], tuple[int, ...], int]] = []  # shape, strides, where it begins
        self._length = 0
        for channels, height, width in cast("list[list[int]]", index["shapes"]):
            self._levels.append(((channels, height, width), (height * width, width, 1), self._length))
            self._length += channels * height * width
        self._open()

    def _open(self) -> None:
        # Indexing a memmap costs more than the copy, hence the view.
        self._shards: list[NDArray[np.float16]] = [
            np.memmap(folder / _MAPS, np.float16, "r").reshape(-1, self.n_variants, self._length).view(np.ndarray)
            for folder in self._folders
        ]
        turns = [np.fromfile(folder / _ORIENTATIONS, np.uint8) for folder in self._folders]
        self._orientations = np.concatenate(turns).reshape(-1, self.n_variants).astype(np.int64)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_shards", "_orientations")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()

    def read(self, tiles: Sequence[Tile], variants: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return maps, finest first, each (B, C, H, W) float16, and the orientation of each variant, (B,) int64."""
        rows = [self._rows[tile] for tile in tiles]
        records = torch.empty((len(rows), self._length), dtype=torch.float16)
        target = records.numpy()
        where = np.searchsorted(self._starts, rows, side="right") - 1
        for place, (row, shard, variant) in enumerate(zip(rows, where.tolist(), variants, strict=True)):
            target[place] = self._shards[shard][row - self._starts[shard], variant]
        maps = tuple(
            records.as_strided((len(rows), *shape), (self._length, *strides), start)
            for shape, strides, start in self._levels
        )
        return maps, torch.from_numpy(self._orientations[rows, list(variants)])
