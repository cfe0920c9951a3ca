"""LabelView: the only door to labels. It hands out what the budget bought and refuses the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.budgets import LabelBudget
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store import SlideInfo, TileStore
from tissuebench.datasets.types import Supervision, Tile
from tissuebench.datasets.weaken import excluded_classes, keep_at_most, tags_of_mask
from tissuebench.errors import WithheldLabelError
from tissuebench.hashing import derive_seed


class LabelView:
    """Labels of one part of a split, as far as they were bought.

    Args:
        store: where the labels are.
        slides: the slides of the part; a label of any other slide is refused.
        mask_patients: patients whose masks are open.
        kinds: kinds of supervision that are open at all. Diagnoses cost nothing and are open for all ``slides``.
    """

    def __init__(
        self,
        store: TileStore,
        slides: tuple[SlideInfo, ...],
        mask_patients: frozenset[str],
        kinds: frozenset[Supervision],
    ) -> None:
        self._labels = store.withheld
        self.class_map = store.class_map
        self.slides = slides
        self.kinds = kinds
        self._patients = {slide.slide_id: slide.patient_id for slide in slides}
        self._with_masks = frozenset(s.slide_id for s in slides if s.patient_id in mask_patients)

    @classmethod
    def for_training(
        cls, store: TileStore, split: Split, budget: LabelBudget, kinds: frozenset[Supervision]
    ) -> LabelView:
        """The training part, with the masks that ``budget`` bought and the kinds that a method consumes."""
        return cls(store, _slides_of(store, split, "train"), frozenset(budget.patients), kinds)

    @classmethod
    def for_evaluation(cls, store: TileStore, split: Split, part: str) -> LabelView:
        """All masks and diagnoses of one part, for the evaluator."""
        return cls(
            store,
            _slides_of(store, split, part),
            frozenset(split.patients(part)),
            frozenset({Supervision.MASKS, Supervision.DIAGNOSIS}),
        )

    @property
    def mask_slides(self) -> tuple[SlideInfo, ...]:
        """Slides whose masks were bought."""
        return tuple(slide for slide in self.slides if slide.slide_id in self._with_masks)

    def mask(self, tile: Tile, height: int, width: int) -> NDArray[np.uint8]:
        """Class ids of a region that begins at ``tile``, (height, width) uint8.

        Raises:
            WithheldLabelError: the budget did not buy it.
        """
        self._require(Supervision.MASKS, tile.slide_id)
        if tile.slide_id not in self._with_masks:
            raise WithheldLabelError(f"mask of slide {tile.slide_id!r}: not bought by the budget")
        return self._labels.mask(tile.slide_id, tile.y, tile.x, height, width)

    def tags(self, tile: Tile, tile_px: int) -> NDArray[np.bool_]:
        """Classes present in a tile whose mask or tags were bought, (K,) bool.

        Raises:
            WithheldLabelError: neither was bought.
        """
        if Supervision.MASKS not in self.kinds:
            self._require(Supervision.TAGS, tile.slide_id)
        if tile.slide_id not in self._with_masks:
            raise WithheldLabelError(f"tags of slide {tile.slide_id!r}: not bought by the budget")
        mask = self._labels.mask(tile.slide_id, tile.y, tile.x, tile_px, tile_px)
        return tags_of_mask(mask, len(self.class_map))

    def diagnosis(self, slide_id: str) -> tuple[str, ...]:
        """Diagnoses of a slide's case.

        Raises:
            WithheldLabelError: the method does not consume diagnoses, or the slide is of another part.
        """
        self._require(Supervision.DIAGNOSIS, slide_id)
        return self._labels.diagnosis(slide_id)

    def excluded(self, slide_id: str, at_most: int | None = None, seed: int = 0) -> NDArray[np.bool_]:
        """Complementary label: the classes that the diagnosis rules out, (K,) bool; errors as ``diagnosis``.

        With ``at_most``, only so many of them; which ones depends on ``seed`` and the case, never on when it is asked.
        """
        excluded = excluded_classes(self.diagnosis(slide_id), self.class_map)
        return keep_at_most(
            excluded, at_most, derive_seed(seed, "excluded", self._patients[slide_id], excluded.tolist())
        )

    def _require(self, kind: Supervision, slide_id: str) -> None:
        if slide_id not in self._patients:
            raise WithheldLabelError(f"slide {slide_id!r}: not in this part of the split")
        if kind not in self.kinds:
            raise WithheldLabelError(f"{kind} of slide {slide_id!r}: not among the labels this method consumes")


def _slides_of(store: TileStore, split: Split, part: str) -> tuple[SlideInfo, ...]:
    patients = set(split.patients(part))
    return tuple(slide for slide in store.slides.values() if slide.patient_id in patients)
