"""LabelView, the only way to access labels (the door): it returns what the budget bought and refuses the rest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from tissuebench.common.hashing import derive_seed
from tissuebench.datasets.labels.budget import LabelBudget
from tissuebench.datasets.labels.draw_budget import annotated_tiles, slide_tags, taggable_tiles
from tissuebench.datasets.labels.open_tiles import Flags, Opened, flagged, grid_index
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import SlideInfo, TileStore
from tissuebench.datasets.types import IGNORE_LABEL, Supervision, Tile
from tissuebench.datasets.weak_labels import MIN_SHARE, excluded_classes, keep_at_most, tags_of_counts, tags_of_mask
from tissuebench.errors import WithheldLabelError


class LabelView:
    """View of the labels of one part of a split, limited to those that were bought.

    Args:
        store: store with the labels.
        slides: the slides of the part; labels of other slides are refused.
        kinds: kinds of supervision that are accessible at all. Diagnoses are open for all ``slides``.
        masks: masks that are open. An open mask also opens the tags that follow from it.
        tags: tags that are open.

    Examples:
        >>> from pathlib import Path
        >>> from tissuebench.datasets.labels.draw_budget import draw_budget
        >>> store = TileStore(Path("data/synthetic/store.zarr"))
        >>> split = Split.read(Path("data/synthetic/split.json"))
        >>> budget = draw_budget(store, split, "masks:3p", replicate=0)
        >>> view = LabelView.for_training(store, split, budget, frozenset({Supervision.MASKS}))
        >>> view.masks(view.mask_tiles()[:2], size=128).shape
        (2, 128, 128)
    """

    def __init__(
        self,
        store: TileStore,
        slides: tuple[SlideInfo, ...],
        kinds: frozenset[Supervision],
        masks: Opened,
        tags: Opened,
    ) -> None:
        self._store = store
        self._labels = store.withheld
        self._tile_px, self._min_tag_share = store.info.tile_px, store.info.min_tag_share
        self.class_map = store.class_map
        self.slides = slides
        self.kinds = kinds
        self._slides = {slide.slide_id: slide for slide in slides}
        self._masks, self._tags = masks, tags
        self._excluded: dict[tuple[str, int | None, int], Flags] = {}

    @classmethod
    def for_training(
        cls,
        store: TileStore,
        split: Split,
        budget: LabelBudget,
        kinds: frozenset[Supervision],
        held_out: Collection[str] = frozenset(),
    ) -> LabelView:
        """Return a view of the training part: what ``budget`` bought of the kinds that a method consumes.

        Args:
            store: store with the labels.
            split: split whose training part is viewed.
            budget: what was bought.
            kinds: kinds that the method consumes.
            held_out: patients who select the checkpoint (``budget.selection_patients``): their masks and tags stay
                closed, but their diagnoses are open, as these were not bought with the masks.
        """

        def kept(tiles: Sequence[Tile]) -> list[Tile]:
            return [tile for tile in tiles if store.slides[tile.slide_id].patient_id not in held_out]

        closed = frozenset(held_out)
        masks = Opened(store, frozenset(budget.patients) - closed, kept(budget.mask_tiles), annotated_tiles)
        tags = Opened(store, frozenset(budget.tags.patients) - closed, kept(budget.tags.tiles), taggable_tiles)
        return cls(store, _slides_of(store, split, "train"), kinds, masks, tags)

    @classmethod
    def for_evaluation(cls, store: TileStore, split: Split, part: str) -> LabelView:
        """Return a view of all masks and diagnoses of one part, for the evaluator."""
        kinds = frozenset({Supervision.MASKS, Supervision.DIAGNOSIS})
        masks = Opened(store, split.patients(part), (), annotated_tiles)
        return cls(store, _slides_of(store, split, part), kinds, masks, Opened(store, (), (), taggable_tiles))

    @classmethod
    def for_selection(cls, store: TileStore, split: Split, budget: LabelBudget, patients: Collection[str]) -> LabelView:
        """Return a view of the masks of bought but held-out patients, for checkpoint selection.

        Raises:
            WithheldLabelError: one of them was not bought.
        """
        stranger = next((patient for patient in patients if patient not in budget.patients), None)
        if stranger is not None:
            raise WithheldLabelError(f"masks of patient {stranger!r}: not bought by the budget")
        slides = tuple(slide for slide in _slides_of(store, split, "train") if slide.patient_id in patients)
        kinds = frozenset({Supervision.MASKS})
        masks = Opened(store, patients, (), annotated_tiles)
        return cls(store, slides, kinds, masks, Opened(store, (), (), taggable_tiles))

    @property
    def mask_slides(self) -> tuple[SlideInfo, ...]:
        """Slides whose masks were bought, in whole or in part."""
        return tuple(slide for slide in self.slides if self._masks.any_of(slide))

    def mask_tiles(self) -> list[Tile]:
        """Return grid tiles with annotated pixels and an open mask, slide by slide; none if masks are not consumed."""
        if Supervision.MASKS not in self.kinds:
            return []
        return [tile for s in self.mask_slides for tile in flagged(s, self._masks.flags(s), self._tile_px)]

    def tag_tiles(self) -> list[Tile]:
        """Return grid tiles with open tags, slide by slide: those of the bought masks, and those bought as tags."""
        if not self.kinds & {Supervision.MASKS, Supervision.TAGS}:
            return []
        tiles: list[Tile] = []
        for slide in self.slides:
            flags = self._masks.flags(slide) if self._masks.any_of(slide) else None
            if Supervision.TAGS in self.kinds and self._tags.any_of(slide):
                tagged = self._tags.flags(slide)
                flags = tagged if flags is None else flags | tagged
            if flags is not None:
                tiles += flagged(slide, flags, self._tile_px)
        return tiles

    def mask(self, tile: Tile, height: int, width: int) -> NDArray[np.uint8]:
        """Return the class ids of a region that starts at ``tile``, (height, width) uint8.

        Raises:
            WithheldLabelError: the budget did not buy all of it.
        """
        self._require_mask(tile, height, width)
        return self._labels.mask(tile.slide_id, tile.y, tile.x, height, width)

    def masks(self, tiles: Sequence[Tile], size: int) -> NDArray[np.uint8]:
        """Return the masks of several square regions, (B, size, size) uint8; raises as ``mask``."""
        for tile in tiles:
            self._require_mask(tile, size, size)
        return self._labels.masks(tiles, size)

    def masks_if_bought(self, tiles: Sequence[Tile], size: int) -> NDArray[np.uint8] | None:
        """Return ``masks`` with ``IGNORE_LABEL`` for tiles whose mask was not bought; None if none was."""
        if Supervision.MASKS not in self.kinds:
            return None
        bought = [self._masks.covers(self._slides[tile.slide_id], tile.y, tile.x, size, size) for tile in tiles]
        if not any(bought):
            return None
        result = np.full((len(tiles), size, size), IGNORE_LABEL, dtype=np.uint8)
        result[bought] = self.masks([tile for tile, has_mask in zip(tiles, bought, strict=True) if has_mask], size)
        return result

    def class_pixels(self, slide: SlideInfo) -> tuple[int, ...] | None:
        """Return the annotated pixels per class of a slide whose whole mask is open; None otherwise."""
        self._require(Supervision.MASKS, slide.slide_id)
        whole = self._masks.covers(slide, 0, 0, slide.height, slide.width)
        return self._labels.class_pixels(slide.slide_id) if whole else None

    def shown_by_masks(self, tiles: Sequence[Tile]) -> Flags:
        """Return the classes in the bought masks of grid tiles, with at least 1 % of the annotated pixels, (B, K) bool.

        These are not an annotator's tags, for which see ``tags_of``. Reads the tile table, not the raster.

        Raises:
            WithheldLabelError: the budget did not buy the mask of one of them.
        """
        for tile in tiles:
            self._require_mask(tile, self._tile_px, self._tile_px)
        return self._grid_flags(tiles, MIN_SHARE)

    @property
    def n_untagged(self) -> int:
        """Number of ``tag_tiles`` whose tags name no class: each covers less than ``StoreInfo.min_tag_share``."""
        return int(np.count_nonzero(~self.tags_of(self.tag_tiles()).any(axis=1)))

    def tags(self, tile: Tile, tile_px: int) -> Flags:
        """Return the tags of a tile whose mask or tags were bought, (K,) bool.

        They follow from a bought mask (classes that cover at least ``StoreInfo.min_tag_share`` of the annotated
        pixels); tags that were bought without the mask are those that the source assigns to the slide as a whole, if it
        does.

        Raises:
            WithheldLabelError: neither was bought.
        """
        slide = self._require_tags(tile.slide_id)
        if tile_px == self._tile_px and grid_index(slide, tile.y, tile.x, tile_px) is not None:
            present: Flags = self.tags_of([tile])[0]
            return present
        if not self._masks.covers(slide, tile.y, tile.x, tile_px, tile_px):
            raise WithheldLabelError(f"tags of slide {tile.slide_id!r}: not bought by the budget")
        mask = self._labels.mask(tile.slide_id, tile.y, tile.x, tile_px, tile_px)
        return tags_of_mask(mask, len(self.class_map), self._min_tag_share)

    def tags_of(self, tiles: Sequence[Tile]) -> Flags:
        """Return ``tags`` of grid tiles of the store's size, (B, K) bool; reads the tile table, not the raster."""
        return self._grid_flags(tiles, self._min_tag_share)

    def image_tags(self, slide_id: str) -> Flags | None:
        """Return the classes that the source assigns to the slide as a whole, (K,) bool; None if it assigns none.

        Raises:
            WithheldLabelError: the slide's tags were not bought.
        """
        self._require(Supervision.TAGS, slide_id)
        if not self._tags.any_of(self._slides[slide_id]):
            raise WithheldLabelError(f"tags of slide {slide_id!r}: not bought by the budget")
        return slide_tags(self._store, slide_id)

    def diagnosis(self, slide_id: str) -> tuple[str, ...]:
        """Return the diagnoses of a slide's case.

        Raises:
            WithheldLabelError: the method does not consume diagnoses, or the slide is in another part.
        """
        self._require(Supervision.DIAGNOSIS, slide_id)
        return self._labels.diagnosis(slide_id)

    def excluded(self, slide_id: str, at_most: int | None = None, seed: int = 0) -> Flags:
        """Return the complementary label: classes that the diagnosis rules out, (K,) bool; raises as ``diagnosis``.

        ``at_most`` limits their number; the choice depends on ``seed`` and the case, never on the order of calls.
        """
        key = (slide_id, at_most, seed)
        if key not in self._excluded:  # requested at every step, and always the same
            self._excluded[key] = self._excluded_by_diagnosis(slide_id, at_most, seed)
        return self._excluded[key]

    def _excluded_by_diagnosis(self, slide_id: str, at_most: int | None, seed: int) -> Flags:
        excluded = excluded_classes(self.diagnosis(slide_id), self.class_map)
        return keep_at_most(
            excluded, at_most, derive_seed(seed, "excluded", self._slides[slide_id].patient_id, excluded.tolist())
        )

    def _require(self, kind: Supervision, slide_id: str) -> None:
        if slide_id not in self._slides:
            raise WithheldLabelError(f"slide {slide_id!r}: not in this part of the split")
        if kind not in self.kinds:
            raise WithheldLabelError(f"{kind} of slide {slide_id!r}: not among the labels this method consumes")

    def _require_mask(self, tile: Tile, height: int, width: int) -> None:
        self._require(Supervision.MASKS, tile.slide_id)
        if not self._masks.covers(self._slides[tile.slide_id], tile.y, tile.x, height, width):
            raise WithheldLabelError(f"mask of slide {tile.slide_id!r}: not bought by the budget")

    def _require_tags(self, slide_id: str) -> SlideInfo:
        self._require(Supervision.MASKS if Supervision.MASKS in self.kinds else Supervision.TAGS, slide_id)
        return self._slides[slide_id]

    def _grid_flags(self, tiles: Sequence[Tile], min_share: float) -> Flags:
        found = [np.zeros((0, len(self.class_map)), dtype=np.bool_)]
        for slide_id, group in groupby(tiles, key=lambda tile: tile.slide_id):
            found.append(self._slide_flags(self._require_tags(slide_id), list(group), min_share))
        return np.concatenate(found)

    def _slide_flags(self, slide: SlideInfo, tiles: Sequence[Tile], min_share: float) -> Flags:
        edge = self._tile_px
        where = [grid_index(slide, tile.y, tile.x, edge) for tile in tiles]
        rows = np.array([-1 if index is None else index for index in where])
        by_mask = np.array([self._masks.covers(slide, tile.y, tile.x, edge, edge) for tile in tiles])
        by_tags = np.zeros_like(by_mask)
        if Supervision.TAGS in self.kinds and self._tags.any_of(slide):
            by_tags = self._tags.flags(slide)[rows]
        if rows.min() < 0 or not (by_mask | by_tags).all():
            raise WithheldLabelError(f"tags of slide {slide.slide_id!r}: not bought by the budget")
        present = tags_of_counts(self._labels.tile_class_pixels(slide.slide_id)[rows], min_share)
        given = None if by_mask.all() else slide_tags(self._store, slide.slide_id)
        if given is not None:
            present[~by_mask] = given
        return present


def _slides_of(store: TileStore, split: Split, part: str) -> tuple[SlideInfo, ...]:
    patients = set(split.patients(part))
    return tuple(slide for slide in store.slides.values() if slide.patient_id in patients)
