"""Parts of a slide that are dark without being tissue: black fill and pen ink."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.readers.fill import fill_mask, grown
from tissuebench.datasets.readers.ink import ink_mask
from tissuebench.datasets.readers.reader import Pixels


def blank_mask(small: Pixels) -> NDArray[np.bool_]:
    """Return the pixels that are black fill or pen ink, (h, w) bool.

    Args:
        small: (h, w, 3) uint8, the whole slide at a low resolution.
    """
    fill = fill_mask(small)
    return np.asarray(fill | ink_mask(small, grown(fill)), dtype=np.bool_)


def blank_notes(thumbnail: Pixels) -> tuple[str, ...]:
    """Return a note on black fill and one on pen ink, with their shares; none on what the slide does not have.

    Args:
        thumbnail: (h, w, 3) uint8, the whole slide at a low resolution.
    """
    fill = fill_mask(thumbnail)
    ink = blank_mask(thumbnail) & ~fill
    parts = ((fill, "black fill where nothing was scanned"), (ink, "pen ink on glass, which is not tissue"))
    return tuple(f"{part.mean():.1%} of the slide is {kind}" for part, kind in parts if part.any())
