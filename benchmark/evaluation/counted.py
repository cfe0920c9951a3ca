"""Windows of a slide that are predicted: annotated ones, and for cases those with tissue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.store.tile_store import SlideInfo, TileStore
from tissuebench.datasets.store.tissue import tissue_pixels
from tissuebench.datasets.types import IGNORE_LABEL, Supervision, Tile


class CountedArea:
    """Part of a slide whose predictions are counted.

    Args:
        store: the store with the tissue masks.
        view: the masks to compare with.
        slide: a slide of the view.
        masks_only: leave the tissue of cases out.

    Attributes:
        is_annotated: whether any pixel is.
        tissue: tissue mask at 1/16 if the slide counts in the scores of cases, else None.
    """

    def __init__(self, store: TileStore, view: LabelView, slide: SlideInfo, masks_only: bool = False) -> None:
        self._view, self._slide = view, slide
        self.is_annotated = is_annotated(view, slide)
        self.tissue = store.tissue(slide.slide_id) if not masks_only and has_case(view, slide) else None

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the slide is predicted."""
        return not self.is_annotated and self.tissue is None

    def truth(self, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return the class ids of a region, (height, width) uint8."""
        return self._view.mask(Tile(self._slide.slide_id, y, x), height, width)

    def has(self, y: int, x: int, height: int, width: int) -> bool:
        """Whether anything in a window is counted, so that it must be predicted."""
        if self.tissue is not None and tissue_pixels(self.tissue, y, x, height, width).any():
            return True
        return self.is_annotated and bool((self.truth(y, x, height, width) != IGNORE_LABEL).any())


def has_case(view: LabelView, slide: SlideInfo) -> bool:
    """Whether the slide counts in the scores of cases: it has one diagnosis, and the dataset others to tell it from."""
    return len(diagnosis_of(view, slide)) == 1 and len(view.class_map.diagnoses) > 1


def diagnosis_of(view: LabelView, slide: SlideInfo) -> tuple[str, ...]:
    """Return the diagnoses of the slide's case, as far as the view opens them."""
    return view.diagnosis(slide.slide_id) if Supervision.DIAGNOSIS in view.kinds else ()


def is_annotated(view: LabelView, slide: SlideInfo) -> bool:
    """Whether any pixel of the slide is annotated."""
    return any(view.class_pixels(slide) or ())
