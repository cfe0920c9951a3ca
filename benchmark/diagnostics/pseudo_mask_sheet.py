"""Contact sheet of tiles, the pseudo-masks that a stage gave them, and the masks that were withheld."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tissuebench.datasets.types import ClassMap
from tissuebench.diagnostics.contact_sheet import CELL, draw_cells

PICTURE = "pseudo_masks.png"
HATCH = ((150, 150, 150), (110, 110, 110))
_STRIPE = 6
_IGNORED = "ignored"


@dataclass(frozen=True, eq=False, slots=True)
class PicturedTile:
    """One row of the sheet: image (3, H, W) uint8 RGB, then (H, W) uint8 class ids for each of the other columns."""

    caption: str
    image: NDArray[np.uint8]
    masks: Sequence[NDArray[np.uint8]]


def draw_sheet(columns: Sequence[str], rows: Sequence[PicturedTile], class_map: ClassMap, remark: str) -> Image.Image:
    """Draw the tiles in the class colours, hatched grey where a mask has no class; legend and remark below.

    Args:
        columns: titles of the image and of the masks; text that does not fit is cut off.
        rows: one per tile, from the top.
        class_map: names and colours.
        remark: text at the foot of the sheet.
    """
    palette = np.array(class_map.colors, dtype=np.uint8)
    cells = [
        (
            row.caption,
            [
                Image.fromarray(np.ascontiguousarray(row.image.transpose(1, 2, 0))),
                *(_coloured(mask, palette) for mask in row.masks),
            ],
        )
        for row in rows
    ]
    names = [*class_map.names, _IGNORED]
    swatches = [_coloured(np.full((1, 1), index, dtype=np.uint8), palette) for index in range(len(names))]
    return draw_cells(columns, cells, remark, dict(zip(names, swatches, strict=True)))


def _coloured(mask: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Image.Image:
    """Return a mask as a cell; ids that are not a class, including ``IGNORE_LABEL``, are hatched."""
    ids = np.asarray(Image.fromarray(mask).resize((CELL, CELL), Image.Resampling.NEAREST))
    rows, columns = np.ogrid[:CELL, :CELL]
    hatched = np.array(HATCH, dtype=np.uint8)[(rows + columns) // _STRIPE % 2]
    known = ids < len(palette)
    return Image.fromarray(np.where(known[..., None], palette[np.where(known, ids, 0)], hatched))
