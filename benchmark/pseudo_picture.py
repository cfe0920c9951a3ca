"""A sheet for people: tiles, the pseudo-masks that a stage gave them, and the masks that were withheld."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tissuebench.datasets.types import ClassMap

PICTURE = "pseudo_masks.png"
CELL, GAP, LINE = 192, 8, 18
"""Pixels: edge of a tile on the sheet, what is between two of them, height of a line of text."""

HATCH = ((150, 150, 150), (110, 110, 110))
_STRIPE, _SWATCH, _FONT_SIZE = 6, 12, 13
_INK, _FRAME, _PAPER = (20, 20, 20), (170, 170, 170), (255, 255, 255)
_IGNORED = "ignored"
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, eq=False, slots=True)
class PicturedTile:
    """A row of the sheet: image (3, H, W) uint8 RGB, then (H, W) uint8 class ids for each of the other columns."""

    caption: str
    image: NDArray[np.uint8]
    masks: Sequence[NDArray[np.uint8]]


def place(row: int, column: int) -> tuple[int, int]:
    """Left and top of a tile on the sheet, in its pixels."""
    return GAP + column * (CELL + GAP), 2 * LINE + row * (CELL + LINE)


def draw_sheet(columns: Sequence[str], rows: Sequence[PicturedTile], class_map: ClassMap, remark: str) -> Image.Image:
    """The tiles in the colours of the classes, hatched grey where a mask has no class; legend and remark below.

    Args:
        columns: titles of the image and of the masks; what does not fit is cut off.
        rows: one a tile, from the top.
        class_map: names and colours.
        remark: for the foot of the sheet.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    width = place(0, len(columns))[0]
    names = [*class_map.names, _IGNORED]
    top_of_foot = place(len(rows), 0)[1] - LINE + GAP
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    legend = list(_flow([_fitted(measure, name, font, width - 2 * GAP - LINE) for name in names], measure, font, width))
    said = list(_wrapped(remark, measure, font, width - 2 * GAP))
    height = top_of_foot + (legend[-1][1] + 1 + len(said)) * LINE + GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(columns):
        draw.text((place(0, column)[0], 2), _fitted(draw, title, font, CELL), _INK, font)
    palette = np.array(class_map.colors, dtype=np.uint8)
    for number, row in enumerate(rows):
        left, top = place(number, 0)
        draw.text((left, top - LINE), _fitted(draw, row.caption, font, width - 2 * GAP), _INK, font)
        picture = Image.fromarray(np.ascontiguousarray(row.image.transpose(1, 2, 0)))
        cells = [picture.resize((CELL, CELL), Image.Resampling.BOX), *(_coloured(mask, palette) for mask in row.masks)]
        for column, cell in enumerate(cells):
            left, top = place(number, column)
            draw.rectangle((left - 1, top - 1, left + CELL, top + CELL), outline=_FRAME)
            sheet.paste(cell, (left, top))
    for index, (left, line, name) in enumerate(legend):
        top = top_of_foot + line * LINE + 2
        swatch = _coloured(np.full((1, 1), index, dtype=np.uint8), palette).crop((0, 0, _SWATCH, _SWATCH))
        draw.rectangle((left - 1, top - 1, left + _SWATCH, top + _SWATCH), outline=_FRAME)
        sheet.paste(swatch, (left, top))
        draw.text((left + LINE, top - 2), name, _INK, font)
    for number, text in enumerate(said, start=legend[-1][1] + 1):
        draw.text((GAP, top_of_foot + number * LINE), text, _INK, font)
    return sheet


def _coloured(mask: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Image.Image:
    """A mask as a cell; ids that are no class, ``IGNORE_LABEL`` among them, are hatched."""
    ids = np.asarray(Image.fromarray(mask).resize((CELL, CELL), Image.Resampling.NEAREST))
    rows, columns = np.ogrid[:CELL, :CELL]
    hatched = np.array(HATCH, dtype=np.uint8)[(rows + columns) // _STRIPE % 2]
    known = ids < len(palette)
    return Image.fromarray(np.where(known[..., None], palette[np.where(known, ids, 0)], hatched))


def _flow(names: Sequence[str], draw: ImageDraw.ImageDraw, font: _Font, width: int) -> Iterator[tuple[int, int, str]]:
    """Left, line and text of each entry of the legend, as many in a line as fit."""
    left, line = GAP, 0
    for name in names:
        taken = LINE + int(draw.textlength(name, font)) + 2 * GAP
        if left > GAP and left + taken > width:
            left, line = GAP, line + 1
        yield left, line, name
        left += taken


def _wrapped(text: str, draw: ImageDraw.ImageDraw, font: _Font, width: int) -> Iterator[str]:
    words = text.split()
    line = words[0]
    for word in words[1:]:
        if draw.textlength(f"{line} {word}", font) > width:
            yield line
            line = word
        else:
            line += f" {word}"
    yield line


def _fitted(draw: ImageDraw.ImageDraw, text: str, font: _Font, width: int) -> str:
    """One line, cut off where it does not fit."""
    line = " ".join(text.split())
    if draw.textlength(line, font) <= width:
        return line
    while line and draw.textlength(f"{line}...", font) > width:
        line = line[:-1]
    return f"{line}..."
