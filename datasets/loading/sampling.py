"""Sampling of the tiles that a stream contributes to a step: a pure function of seed, stream and step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tissuebench.common.hashing import derive_seed
from tissuebench.datasets.labels.open_tiles import Flags
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.store.tissue import MIN_TISSUE_SHARE
from tissuebench.datasets.types import Stream, Supervision, Tile
from tissuebench.errors import ConfigError

Tree = Tile | tuple["Tree", ...]
"""Tiles in nested groups; a draw is uniform at each level, so small groups have the same weight as large ones."""


def draw(tree: Tree, rng: np.random.Generator) -> Tile:
    """Draw one tile, uniformly at every level of the tree."""
    while not isinstance(tree, Tile):
        tree = tree[int(rng.integers(len(tree)))]
    return tree


def stream_tree(
    name: str,
    stream: Stream,
    store: TileStore,
    view: LabelView,
    tile_px: int,
    seed: int,
    among: Collection[Tile] | None = None,
) -> Tree:
    """Return the tiles of a stream, grouped for balanced sampling; restricted to ``among``, if given.

    ``masks``: a class, then a bought tile that shows it. ``tags``: a class, then a tile whose tags name it.
    ``diagnosis``: an excluded class, then a case, then a tissue tile, so that large cases and common diagnoses do not
    dominate; cases that exclude nothing are left out. ``none``: a case, then a tissue tile. With ``balanced=False`` or
    ``shuffled=True`` all these tiles form one group, which for ``tags`` includes the tiles whose tags name no class.

    Raises:
        ConfigError: the stream has no tiles.
    """
    if stream.supervision is Supervision.MASKS:
        tiles = view.mask_tiles()
        tree = _by_class(tiles, view.shown_by_masks(tiles))
    elif stream.supervision is Supervision.TAGS:
        tiles = view.tag_tiles()
        tree = _by_class(tiles, view.tags_of(tiles)) if stream.is_grouped else tuple(tiles)
    elif stream.supervision is Supervision.DIAGNOSIS:
        tree = _by_excluded_class(stream, store, view, tile_px, seed)
    else:
        tree = _by_case(store, [slide.slide_id for slide in view.slides], tile_px)
    if among is not None:
        tree = _pruned(tree, among)
    tiles = distinct_tiles(tree)
    if not tiles:
        raise ConfigError(f"stream {name!r} ({stream.supervision}) has no tile in this budget")
    return tree if stream.is_grouped else tuple(tiles)


def n_tiles(supervision: Supervision, store: TileStore, view: LabelView) -> int:
    """Return the number of distinct tiles that an unbalanced stream of this supervision can draw: those of an epoch.

    Raises:
        ConfigError: there are none.

    Examples:
        >>> steps = math.ceil(epochs * n_tiles(Supervision.MASKS, data.store, view) / batch_size)
    """
    stream = Stream(supervision, batch_size=1, balanced=False)
    return len(distinct_tiles(stream_tree(supervision.value, stream, store, view, store.info.tile_px, seed=0)))


def shuffled_places(seed: int, name: str, n_in_epoch: int, start: int, stop: int) -> NDArray[np.int64]:
    """Return places from ``start`` to ``stop`` (exclusive) of the endless sequence of a shuffled stream's epochs.

    Each epoch is a permutation of the numbers below ``n_in_epoch``, which depends on nothing but seed, name and the
    epoch's number.

    Examples:
        >>> sorted(shuffled_places(seed=0, name="annotated", n_in_epoch=4, start=4, stop=8).tolist())
        [0, 1, 2, 3]
    """
    places = np.arange(start, stop)
    epochs = [_epoch(seed, name, n_in_epoch, number) for number in range(start // n_in_epoch, -(-stop // n_in_epoch))]
    return np.concatenate(epochs)[places - start // n_in_epoch * n_in_epoch]


@lru_cache(maxsize=16)
def _epoch(seed: int, name: str, n_in_epoch: int, number: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(derive_seed(seed, "epoch", name, number))).permutation(n_in_epoch)


def distinct_tiles(tree: Tree) -> list[Tile]:
    """Return the tiles of a tree without duplicates, slide by slide."""
    return sorted(set(_leaves(tree)), key=lambda tile: (tile.slide_id, tile.y, tile.x))


def _by_class(tiles: list[Tile], present: Flags) -> Tree:
    groups = (tuple(tiles[index] for index in np.flatnonzero(shown)) for shown in present.T)
    return tuple(group for group in groups if group)


def _by_excluded_class(stream: Stream, store: TileStore, view: LabelView, tile_px: int, seed: int) -> Tree:
    groups: dict[int, list[str]] = defaultdict(list)
    for slide in view.slides:
        for class_id in np.flatnonzero(view.excluded(slide.slide_id, stream.max_excluded, seed)):
            groups[int(class_id)].append(slide.slide_id)
    return tuple(_by_case(store, groups[class_id], tile_px) for class_id in sorted(groups))


def _by_case(store: TileStore, slide_ids: Iterable[str], tile_px: int) -> tuple[Tree, ...]:
    cases: dict[str, list[Tile]] = defaultdict(list)
    for slide_id in slide_ids:
        slide = store.slides[slide_id]
        tiles = grid(slide, tile_px)
        shares = store.tile_tissue(slide_id)
        with_tissue = [tile for tile, share in zip(tiles, shares, strict=True) if share >= MIN_TISSUE_SHARE]
        cases[slide.patient_id].extend(with_tissue or tiles)
    return tuple(tuple(cases[patient]) for patient in sorted(cases))


def _pruned(tree: Tree, among: Collection[Tile]) -> tuple[Tree, ...]:
    """Return the tree restricted to ``among``, without groups that become empty."""
    if isinstance(tree, Tile):
        return (tree,) if tree in among else ()
    kept: list[Tree] = []
    for branch in tree:
        inside = _pruned(branch, among)
        if inside:
            kept.append(inside[0] if isinstance(branch, Tile) else inside)
    return tuple(kept)


def _leaves(tree: Tree) -> Iterable[Tile]:
    if isinstance(tree, Tile):
        yield tree
    else:
        for branch in tree:
            yield from _leaves(branch)
