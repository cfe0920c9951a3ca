"""Contact sheets for visual inspection: one row per tile, one column for each thing shown of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CELL, GAP, LINE = 192, 8, 18
"""Pixels: edge of a picture on the sheet, gap between two pictures, height of a line of text."""

SWATCH = 12
_FONT_SIZE = 13
_INK, _FRAME, _PAPER = (20, 20, 20), (170, 170, 170), (255, 255, 255)
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def place(row: int, column: int) -> tuple[int, int]:
    """Return left and top of a picture on the sheet, in its pixels."""
    return GAP + column * (CELL + GAP), 2 * LINE + row * (CELL + LINE)


def draw_cells(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    remark: str,
    legend: Mapping[str, Image.Image] | None = None,
) -> Image.Image:
    """Draw pictures under titles and captions, legend and remark below; text that does not fit is cut off or wrapped.

    Args:
        columns: column titles.
        rows: caption and pictures of each row, from the top; pictures are resized to ``CELL`` px.
        remark: text at the foot of the sheet.
        legend: swatches by name.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    width = place(0, len(columns))[0]
    top_of_foot = place(len(rows), 0)[1] - LINE + GAP
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    swatches = list((legend or {}).values())
    names = [_fitted(measure, name, font, width - 2 * GAP - LINE) for name in legend or {}]
    placed = list(_flow(names, measure, font, width))
    lines = placed[-1][1] + 1 if placed else 0
    said = list(_wrapped(remark, measure, font, width - 2 * GAP))
    sheet = Image.new("RGB", (width, top_of_foot + (lines + len(said)) * LINE + GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(columns):
        draw.text((place(0, column)[0], 2), _fitted(draw, title, font, CELL), _INK, font)
    for number, (caption, cells) in enumerate(rows):
        left, top = place(number, 0)
        draw.text((left, top - LINE), _fitted(draw, caption, font, width - 2 * GAP), _INK, font)
        for column, cell in enumerate(cells):
            left, top = place(number, column)
            draw.rectangle((left - 1, top - 1, left + CELL, top + CELL), outline=_FRAME)
            sheet.paste(cell.resize((CELL, CELL), Image.Resampling.BOX), (left, top))
    for swatch, (left, line, name) in zip(swatches, placed, strict=True):
        top = top_of_foot + line * LINE + 2
        draw.rectangle((left - 1, top - 1, left + SWATCH, top + SWATCH), outline=_FRAME)
        sheet.paste(swatch.crop((0, 0, SWATCH, SWATCH)), (left, top))
        draw.text((left + LINE, top - 2), name, _INK, font)
    for number, text in enumerate(said, start=lines):
        draw.text((GAP, top_of_foot + number * LINE), text, _INK, font)
    return sheet


def draw_pictures(captions: Sequence[str], columns: Mapping[str, NDArray[np.uint8]], remark: str) -> Image.Image:
    """Draw a sheet from arrays.

    Args:
        captions: row captions.
        columns: by title, each (rows, H, W, 3) RGB.
        remark: text at the foot of the sheet.
    """
    rows = [
        (caption, [Image.fromarray(np.ascontiguousarray(column[number])) for column in columns.values()])
        for number, caption in enumerate(captions)
    ]
    return draw_cells(list(columns), rows, remark)


def _flow(names: Sequence[str], draw: ImageDraw.ImageDraw, font: _Font, width: int) -> Iterator[tuple[int, int, str]]:
    """Yield left, line and text of each entry of the legend, as many per line as fit."""
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
    """Return the text as one line, cut off where it does not fit."""
    line = " ".join(text.split())
    if draw.textlength(line, font) <= width:
        return line
    while line and draw.textlength(f"{line}...", font) > width:
        line = line[:-1]
    return f"{line}..."
