"""Label images: one value per pixel, at the size of the slide, the raster, or an integer downsample of the slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.annotations.label_colors import ColorTable
from tissuebench.datasets.annotations.label_pixels import open_plain, open_tiff
from tissuebench.datasets.annotations.source import Frame, blank, block_inside
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap
from tissuebench.errors import DataError

TIFF_SUFFIXES = (".tif", ".tiff")
PLAIN_SUFFIXES = (".png", ".bmp")
_OUTSIDE = -1


class LabelImage:
    """Labels from an image, sampled at the centres of the raster's pixels.

    A palette image is read as indices, not colours; a grey image as values; an RGB image as the classes of its colours.
    A mask that was cropped to whole downsampled pixels leaves the missing strip unannotated.

    Args:
        path: 8-bit PNG, BMP or TIFF. A tiled TIFF is decoded tile by tile, any other file once as a whole.
        class_map: its length bounds the values; ``IGNORE_LABEL`` is always allowed.
        frame: position of the raster on the slide.
        instance_class: class id of all values above 0, with 0 as class 0; None reads values as class ids.
        ignore_index: value that means "not annotated", in addition to ``IGNORE_LABEL``.

    Raises:
        DataError: unreadable file, unsupported kind of image, or wrong size.
    """

    def __init__(
        self,
        path: Path,
        class_map: ClassMap,
        frame: Frame,
        instance_class: int | None = None,
        ignore_index: int | None = None,
    ) -> None:
        self.notes: tuple[str, ...] = ()
        self._path = path
        self._frame = frame
        self.offset = (0, 0)
        self._classes = len(class_map)
        # The colours of instances are arbitrary, those of classes are the class map's.
        colors = ColorTable(path, class_map) if instance_class is None else None
        self._pixels = (open_tiff if path.suffix.lower() in TIFF_SUFFIXES else open_plain)(path, colors)
        self._downsample = _downsample(path, self._pixels.size, frame)
        self._meaning = _meaning(len(class_map), instance_class, ignore_index)

    def finish(self) -> tuple[str, ...]:
        """Return the notes; see ``LabelSource.finish``."""
        return self.notes

    def raster(self, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return the class ids of a block; see ``LabelSource.raster``.

        Raises:
            DataError: a value of this block is outside the class map, or the block cannot be decoded.
        """
        labels = blank(height, width)
        block = block_inside(self._frame, y, x, height, width)
        if block.empty:
            return labels
        rows = self._sources(block.y0, block.y1, axis=0)
        columns = self._sources(block.x0, block.x1, axis=1)
        values = self._pixels.take(rows, columns)
        ids = self._meaning[values]
        if (ids == _OUTSIDE).any():
            wrong = int(values[ids == _OUTSIDE].min())
            raise DataError(
                f"{self._path}: mask value {wrong} is outside the class map (0 to {self._classes - 1}, "
                f"{IGNORE_LABEL} = not annotated)"
            )
        labels[block.within][: len(rows), : len(columns)] = ids
        return labels

    def _sources(self, start: int, stop: int, axis: int) -> NDArray[np.intp]:
        """Return the image pixels under the raster's pixels; fewer at the end if the image lacks a strip."""
        wanted = np.arange(start, stop)
        if self._downsample is None:
            return wanted
        centres = np.floor((wanted + 0.5) * self._frame.scale).astype(np.intp)
        # The raster's last pixel may extend beyond the slide's edge by a fraction.
        found = np.minimum(centres, self._frame.level0_size[axis] - 1) // self._downsample
        held: NDArray[np.intp] = found[found < self._pixels.size[axis]]
        return held


def _downsample(path: Path, size: tuple[int, int], frame: Frame) -> int | None:
    """Return the level-0 pixels per image pixel; None if the image has the size of the raster."""
    (height, width), (full_height, full_width) = size, frame.level0_size
    if size == frame.level0_size:
        return 1
    if size == frame.size:
        return None
    ratios = (full_height / height, full_width / width)
    fitting = [
        factor
        for factor in sorted({int(ratio) + step for ratio in ratios for step in (0, 1)})
        if factor > 1 and _is_part(height, full_height, factor) and _is_part(width, full_width, factor)
    ]
    if not fitting:
        raise DataError(
            f"{path}: mask is {width} x {height} px but its image is {full_width} x {full_height} px; "
            "save it at the size of the image or of a whole downsample"
        )
    exact = [factor for factor in fitting if (height * factor, width * factor) == frame.level0_size]
    if len(fitting) > 1 and not exact:  # for such small images the size is ambiguous
        raise DataError(
            f"{path}: mask of {width} x {height} px may be its image at 1/{fitting[0]} or at 1/{fitting[1]}; "
            "save it at the size of the image"
        )
    return (exact or fitting)[0]


def _is_part(side: int, full: int, factor: int) -> bool:
    return side in (full // factor, -(-full // factor))


def _meaning(classes: int, instance_class: int | None, ignore_index: int | None) -> NDArray[np.int16]:
    """Return the class id of every value, (256,) int16; ``_OUTSIDE`` where it has none."""
    meaning = np.full(256, _OUTSIDE, dtype=np.int16)
    if instance_class is None:
        meaning[:classes] = np.arange(classes)
        meaning[IGNORE_LABEL] = IGNORE_LABEL
    else:
        meaning[0], meaning[1:] = 0, instance_class
    if ignore_index is not None:
        meaning[ignore_index] = IGNORE_LABEL
    return meaning
