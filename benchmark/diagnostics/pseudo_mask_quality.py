"""Agreement of a stage's pseudo-masks with withheld masks. A diagnostic: nothing is ever trained on it.

It reads masks of training tiles through ``LabelView.for_evaluation``, after the stage has annotated, and leaves two
files in the stage's folder. No stage reads them, and nothing that determines a result does.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tissuebench.common.files import write_aside
from tissuebench.datasets.documents import read_hashed_json, write_hashed_json
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.types import IGNORE_LABEL, Tile
from tissuebench.diagnostics.pseudo_mask_sheet import PICTURE, PicturedTile, draw_sheet
from tissuebench.errors import DataError
from tissuebench.evaluation.slide_counts import confusion
from tissuebench.results.records.pseudo_mask_quality import DIAGNOSTIC, PseudoQuality
from tissuebench.training.pseudo_mask_store import PseudoMasks

QUALITY = "quality.json"
_COMPARED_AT_ONCE, _PICTURED = 8, 8


def write_quality(
    folder: Path, store: TileStore, split: Split, layers: Sequence[str], moved: Callable[[int, int], None]
) -> None:
    """Compare the pseudo-masks in ``folder`` with all masks of the same tiles; write ``quality.json`` and a picture.

    Nothing is written if none of the tiles has a mask. No random number is drawn.

    Args:
        folder: folder of the stage, with its pseudo-masks.
        store: the store with the tiles.
        split: its training part is used, withheld masks included.
        layers: names of the layers; if empty, they are named by position.
        moved: called with the number of tiles compared and the total.

    Raises:
        DataError: the number of names differs from that of the layers, names repeat, or the pseudo-masks differ in size
            from the tiles.
    """
    masks, view = PseudoMasks(folder), LabelView.for_evaluation(store, split, "train")
    tiles = [tile for tile in view.mask_tiles() if tile in masks.tiles]
    if not tiles:
        return
    names = _names(layers, masks.read(tiles[:1]), store.info.tile_px)
    quality = _compare(tiles, masks, view, names, store.info.tile_px, moved)
    write_hashed_json(folder / QUALITY, {"about": DIAGNOSTIC, **quality.to_json()})
    chosen = spread(view.shown_by_masks(tiles), [tile.slide_id for tile in tiles], _PICTURED)
    _draw(folder / PICTURE, [tiles[index] for index in chosen], masks, view, store, names)


def read_quality(folder: Path) -> PseudoQuality | None:
    """Read the result of ``write_quality`` from a stage's folder; None if there is none.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / QUALITY
    return PseudoQuality.from_json(read_hashed_json(path)[0]) if path.is_file() else None


def spread(shown: NDArray[np.bool_], slide_ids: Sequence[str], count: int) -> list[int]:
    """Choose tiles to show, deterministically: in turn the one with the most classes that were not shown yet.

    Once all classes were shown, it starts over. Ties go to the slide that was shown least, then to the given order.

    Args:
        shown: (N, K) classes that each tile shows.
        slide_ids: N slide ids.
        count: maximum number of tiles.
    """
    chosen: list[int] = []
    used = Counter[str]()
    left, missing = np.ones(len(shown), dtype=np.bool_), shown.any(axis=0)
    for _ in range(min(count, len(shown))):
        if not shown[left][:, missing].any():
            missing = shown[left].any(axis=0)
        worth = np.where(left, shown[:, missing].sum(axis=1), -1)
        index = min(np.flatnonzero(worth == worth.max()).tolist(), key=lambda i: used[slide_ids[i]])
        chosen.append(index)
        left[index] = False
        missing = missing & ~shown[index]
        used[slide_ids[index]] += 1
    return chosen


def _names(given: Sequence[str], example: NDArray[np.uint8], tile_px: int) -> tuple[str, ...]:
    n_layers = example.shape[1]
    if example.shape[2:] != (tile_px, tile_px):
        raise DataError(f"annotate() gave pseudo-masks of {example.shape[2:]} px; tiles are of {(tile_px, tile_px)}")
    names = tuple(given) or tuple(f"layer {number}" for number in range(1, n_layers + 1))
    if len(names) != n_layers:
        raise DataError(f"annotate() gave {n_layers} layers, the property layers names {len(names)}: {names}")
    return names


def _compare(
    tiles: Sequence[Tile],
    masks: PseudoMasks,
    view: LabelView,
    names: tuple[str, ...],
    tile_px: int,
    moved: Callable[[int, int], None],
) -> PseudoQuality:
    n_classes, annotated = len(view.class_map), 0
    counts = np.zeros((len(names), n_classes, n_classes), dtype=np.int64)
    for start in range(0, len(tiles), _COMPARED_AT_ONCE):
        chunk = tiles[start : start + _COMPARED_AT_ONCE]
        truth, layers = view.masks(chunk, tile_px), masks.read(chunk)
        annotated += int(np.count_nonzero(truth != IGNORE_LABEL))
        for layer in range(len(names)):
            pseudo = layers[:, layer]
            both = np.where(pseudo < n_classes, truth, IGNORE_LABEL)
            counts[layer] += confusion(both, pseudo, n_classes)
        moved(start + len(chunk), len(tiles))
    return PseudoQuality(names, counts, annotated, len(tiles))


def _draw(
    path: Path, tiles: Sequence[Tile], masks: PseudoMasks, view: LabelView, store: TileStore, names: tuple[str, ...]
) -> None:
    size = store.info.tile_px
    truth, layers, images = view.masks(tiles, size), masks.read(tiles), store.images(tiles, size)
    rows = [
        PicturedTile(f"{tile.slide_id}, y {tile.y}, x {tile.x}", images[i], [*layers[i], truth[i]])
        for i, tile in enumerate(tiles)
    ]
    columns = ("image", *names, "withheld mask")
    remark = f"Pseudo-masks of training tiles beside masks that were withheld: {DIAGNOSTIC}."
    data = io.BytesIO()
    draw_sheet(columns, rows, view.class_map, remark).save(data, "PNG")
    write_aside(path, data.getvalue())
