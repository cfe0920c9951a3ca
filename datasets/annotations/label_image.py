"""Label images: one value per pixel, at the size of the slide, the raster, or an integer downsample of the slide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.annotations.extent import Extent, scanned_part, whole_slide
from tissuebench.datasets.annotations.label_colors import ColorTable, GreyTable
from tissuebench.datasets.annotations.label_pixels import open_plain, open_tiff
from tissuebench.datasets.annotations.mask_meaning import MaskMeaning
from tissuebench.datasets.annotations.source import Frame, blank, block_inside
from tissuebench.datasets.types import FrameName
from tissuebench.errors import DataError

TIFF_SUFFIXES = (".tif", ".tiff")
PLAIN_SUFFIXES = (".png", ".bmp")


class LabelImage:
    """Labels from an image, sampled at the centres of the raster's pixels.

    A palette image is read as indices, not colours; a grey image as values; an RGB image as the classes of its colours,
    or as the values of its equal channels if the dataset maps values. A mask of the whole slide or of its scanned part
    is recognised by its size. A mask that was cropped to whole downsampled pixels leaves the missing strip unannotated.

    Args:
        path: PNG, BMP or TIFF with values of up to 8 bits. A tiled TIFF is decoded tile by tile, any other file once as
            a whole.
        meaning: class ids of its values.
        frame: position of the raster on the slide.
        asked: part of the slide that the mask shows; ``auto`` goes by its size.

    Raises:
        DataError: unreadable file, unsupported kind of image, or wrong size.
    """

    def __init__(self, path: Path, meaning: MaskMeaning, frame: Frame, asked: FrameName = "auto") -> None:
        self._frame = frame
        self._meaning = meaning
        colors: ColorTable | GreyTable | None = None
        if meaning.mapped:
            colors = GreyTable(path)
        elif not meaning.has_instances:  # the colours of instances are arbitrary, those of classes the class map's
            colors = ColorTable(path, meaning.class_map)
        self._pixels = (open_tiff if path.suffix.lower() in TIFF_SUFFIXES else open_plain)(path, colors)
        fit = _fit(path, self._pixels.size, frame, asked)
        self._extent, self._downsample = fit.extent, fit.downsample
        self.offset = fit.extent.y, fit.extent.x
        self.notes: tuple[str, ...] = (*fit.extent.notes, *self._pixels.notes)

    def finish(self) -> tuple[str, ...]:
        """Return the notes; see ``LabelSource.finish``.

        Raises:
            DataError: the values of the whole image may be meant in two ways.
        """
        return (*self.notes, *self._meaning.finish(self._pixels.is_color, self._pixels.is_palette))

    def raster(self, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return the class ids of a block; see ``LabelSource.raster``.

        Raises:
            DataError: a value of this block has no meaning, or the block cannot be decoded.
        """
        labels = blank(height, width)
        block = block_inside(self._frame, y, x, height, width)
        if block.empty:
            return labels
        at_rows, rows = self._sources(block.y0, block.y1, axis=0)
        at_columns, columns = self._sources(block.x0, block.x1, axis=1)
        if len(rows) and len(columns):
            labels[block.within][at_rows, at_columns] = self._meaning.ids(self._pixels.take(rows, columns))
        return labels

    def _sources(self, start: int, stop: int, axis: int) -> tuple[slice, NDArray[np.intp]]:
        """Return the image pixels under the raster's pixels, and which of those have one: the image may lack a part."""
        wanted = np.arange(start, stop)
        if self._downsample is None:
            return slice(None), wanted
        centres = np.floor((wanted + 0.5) * self._frame.scale).astype(np.intp)
        # The raster's last pixel may extend beyond the slide's edge by a fraction.
        within = np.minimum(centres, self._frame.level0_size[axis] - 1) - self.offset[axis]
        found = within // self._downsample
        first = int(np.searchsorted(found, 0))
        end = int(np.searchsorted(found, self._pixels.size[axis]))
        held: NDArray[np.intp] = found[first:end]
        return slice(first, end), held


@dataclass(frozen=True, slots=True)
class _Fit:
    """Reading of an image's size; ``rank`` is higher for one that is less likely to be a coincidence.

    Attributes:
        extent: part of the slide that it shows.
        downsample: level-0 pixels per image pixel; None if it has the size of the raster.
    """

    extent: Extent
    downsample: int | None
    rank: int


def _fit(path: Path, size: tuple[int, int], frame: Frame, asked: FrameName) -> _Fit:
    """Return the part of the slide that an image of this size shows, and its resolution.

    Raises:
        DataError: it fits no part, or several equally well.
    """
    extents = {"slide": [whole_slide(frame)], "bounds": [scanned_part(frame)]}
    both = list(dict.fromkeys([whole_slide(frame), scanned_part(frame)]))
    fits = [fit for extent in extents.get(asked, both) for fit in _fits(size, frame, extent)]
    height, width = size
    if not fits:
        sizes = " and its scanned part ".join(f"{part.width} x {part.height} px" for part in extents.get(asked, both))
        raise DataError(
            f"{path}: mask is {width} x {height} px but its image is {sizes}; save it at the size of the image or of a "
            "whole downsample"
        )
    best = [fit for fit in fits if fit.rank == max(fit.rank for fit in fits)]
    if len({fit.extent for fit in best}) > 1:
        raise DataError(
            f"{path}: mask of {width} x {height} px fits the slide and its scanned part; say which with the manifest's "
            "column 'frame' (slide or bounds)"
        )
    if len(best) > 1:  # for such small images the size is ambiguous
        raise DataError(
            f"{path}: mask of {width} x {height} px may be its image at 1/{best[0].downsample} or at "
            f"1/{best[1].downsample}; save it at the size of the image"
        )
    return best[0]


def _fits(size: tuple[int, int], frame: Frame, extent: Extent) -> list[_Fit]:
    (height, width), full = size, (extent.height, extent.width)
    if size == full:
        return [_Fit(extent, 1, 2)]
    if size == frame.size and not extent.cropped:
        return [_Fit(extent, None, 2)]
    ratios = (full[0] / height, full[1] / width)
    fitting = [
        factor
        for factor in sorted({int(ratio) + step for ratio in ratios for step in (0, 1)})
        if factor > 1 and _is_part(height, full[0], factor) and _is_part(width, full[1], factor)
    ]
    exact = [factor for factor in fitting if (height * factor, width * factor) == full]
    return [_Fit(extent, factor, 1) for factor in exact] or [_Fit(extent, factor, 0) for factor in fitting]


def _is_part(side: int, full: int, factor: int) -> bool:
    return side in (full // factor, -(-full // factor))
