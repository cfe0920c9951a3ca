"""Features of a frozen encoder: computed once for a store and encoder, shared by every method, budget and seed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tissuebench.config import Plan
from tissuebench.datasets.augment import augment
from tissuebench.datasets.files import read_hashed_json, write_hashed_json
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store import TileStore
from tissuebench.datasets.tiling import grid
from tissuebench.datasets.types import Tile
from tissuebench.errors import ConfigError, DataError
from tissuebench.hashing import Json, content_hash, derive_seed
from tissuebench.methods.networks import Segmenter, build_segmenter

_VERSION = 2
_BATCH = 16
_INDEX, _MAPS, _ORIENTATIONS = "index.json", "maps.f16", "orientations.npy"


class FeatureBank:
    """Float16 maps, a record for each tile and variant with all its levels: one read a sample. A ``FeatureSource``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index, _ = read_hashed_json(folder / _INDEX)
        tiles = cast("list[list[str | int]]", index["tiles"])
        self._rows = {Tile(str(t[0]), int(t[1]), int(t[2])): row for row, t in enumerate(tiles)}
        self.n_variants = cast("int", index["variants"])
        self._levels: list[tuple[tuple[int, ...], tuple[int, ...], int]] = []  # shape, strides, where it begins
        self._length = 0
        for channels, height, width in cast("list[list[int]]", index["shapes"]):
            self._levels.append(((channels, height, width), (height * width, width, 1), self._length))
            self._length += channels * height * width
        self._open()

    def _open(self) -> None:
        mapped = np.memmap(self._folder / _MAPS, np.float16, "r").reshape(-1, self._length)
        self._records: NDArray[np.float16] = mapped.view(np.ndarray)  # indexing a memmap costs more than the copy
        self._orientations: NDArray[np.int64] = np.load(self._folder / _ORIENTATIONS)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_records", "_orientations")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()

    def read(self, tiles: Sequence[Tile], variants: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Maps, finest first, each (B, C, H, W) float16, and the orientation of each variant, (B,) int64."""
        rows = [self._rows[tile] for tile in tiles]
        records = torch.from_numpy(
            self._records[[r * self.n_variants + v for r, v in zip(rows, variants, strict=True)]]
        )
        maps = tuple(
            records.as_strided((len(rows), *shape), (records.shape[1], *strides), start)
            for shape, strides, start in self._levels
        )
        return maps, torch.from_numpy(self._orientations[rows, list(variants)])


def ensure_features(
    folder: Path,
    plan: Plan,
    store: TileStore,
    split: Split,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> FeatureBank:
    """Open the features of the training tiles, computing them first if no bank has exactly this key.

    The key covers store, split, tile size, encoder weights, levels and augmentation: a changed one never reads an
    old bank. Variant 0 is the tile as it is; the others are augmented as ``augment`` does for images.

    Raises:
        ConfigError: the plan zooms, and cached maps come with masks that are turned but not zoomed.
        DataError: a bank with this key has no index.
    """
    if plan.augmentation.scale:
        raise ConfigError("augmentation.scale needs network.encoder_mode: finetune; cached features are not zoomed")
    network = build_segmenter(plan.network, len(store.class_map)).to(device).eval()
    key: dict[str, Json] = {
        "version": _VERSION,
        "store": store.content_hash,
        "split": split.sha256,
        "tile_px": store.info.tile_px,
        "encoder": plan.network.encoder,
        "weights": _weights_hash(network),
        "decoder": plan.network.decoder,
        "variants": plan.network.feature_variants,
        "augmentation": plan.augmentation.model_dump(mode="json"),
    }
    path = folder / content_hash(key)[:16]
    if not path.exists():
        aside = path.with_name(path.name + ".partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        _compute(aside, key, plan, store, split, network, device, progress)
        aside.rename(path)
    if not (path / _INDEX).is_file():
        raise DataError(f"{path}: features without an index; delete the folder and run the command again")
    return FeatureBank(path)


@torch.inference_mode()
def _compute(
    folder: Path,
    key: dict[str, Json],
    plan: Plan,
    store: TileStore,
    split: Split,
    network: Segmenter,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> None:
    train = set(split.patients("train"))
    size, n_variants = store.info.tile_px, plan.network.feature_variants
    tiles = [tile for slide in store.slides.values() if slide.patient_id in train for tile in grid(slide, size)]
    orientations = np.zeros((len(tiles), n_variants), dtype=np.int64)
    shapes: list[list[int]] = []
    with (folder / _MAPS).open("wb") as file:
        for start in range(0, len(tiles), _BATCH):
            chunk = slice(start, min(start + _BATCH, len(tiles)))
            images = torch.from_numpy(store.images(tiles[chunk], size)).to(device)
            records: list[NDArray[np.float16]] = []
            for variant in range(n_variants):
                batch = images
                if variant > 0:
                    batch, geometry = augment(images, derive_seed("features", variant, start), plan.augmentation)
                    orientations[chunk, variant] = geometry.orientations.numpy()
                levels = [level.to(torch.float16).cpu() for level in network.encode(batch)]
                shapes = [list(level.shape[1:]) for level in levels]
                records.append(torch.cat([level.flatten(1) for level in levels], dim=1).numpy())
            file.write(np.ascontiguousarray(np.stack(records, axis=1)).data)
            progress(chunk.stop, len(tiles))
    np.save(folder / _ORIENTATIONS, orientations)
    listed: Json = [[tile.slide_id, tile.y, tile.x] for tile in tiles]
    write_hashed_json(folder / _INDEX, {**key, "shapes": shapes, "tiles": listed})


def _weights_hash(network: Segmenter) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
