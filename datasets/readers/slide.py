"""Single entry point for all slide formats: regions at the target mpp, and their mapping to level 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from tissuebench.datasets.readers.formats import open_reader
from tissuebench.datasets.readers.reader import Bounds, Pixels, SlideReader
from tissuebench.datasets.readers.resample import LevelView
from tissuebench.errors import DataError

_FINE_ENOUGH = 1.01  # a level 1 % coarser than requested is accepted: scanners round their magnifications


def open_slide(
    path: Path, target_mpp: float | None, mpp_override: float | None = None, reader: str = "", series: str = ""
) -> Slide:
    """Open a slide to read regions at ``target_mpp``, or at level 0 if it is None.

    Args:
        path: a slide file, or the folder of an OME-Zarr image; supported suffixes are in ``SLIDE_SUFFIXES``.
        target_mpp: requested micrometres per pixel.
        mpp_override: replaces the resolution of level 0 given by the file (the manifest's column ``mpp``).
        reader: "tifffile", "openslide", "ome-zarr" or "plain"; if empty, chosen by the suffix.
        series: which image of a file that holds several: its number, from 0, or its name; if empty, the largest
            brightfield pyramid.

    Raises:
        DataError: missing, unreadable or unknown file, not 8-bit RGB, or no mpp where one is needed.

    Examples:
        >>> with open_slide(Path("data/synthetic/store.zarr/slides/S01"), target_mpp=2.0) as slide:
        ...     slide.region(0, 0, 256, 256).shape
        (256, 256, 3)
    """
    for mpp in (target_mpp, mpp_override):
        if mpp is not None and not 0 < mpp < math.inf:
            raise DataError(f"{path}: mpp {mpp} is not a resolution; micrometres per pixel are above 0")
    opened = open_reader(path, reader, series)
    try:
        return Slide(path, opened, target_mpp, mpp_override)
    except BaseException:
        opened.close()
        raise


class Slide:
    """Open slide at one resolution; each process must open its own, and only one thread may read.

    The coarsest pyramid level that is still fine enough is read and resized with an area filter; a level with exactly
    the requested resolution is returned unchanged. At most about 4096 x 4096 source pixels are held in memory at once.

    Attributes:
        height, width: size in pixels of ``region``.
        mpp: micrometres per pixel of ``region``; None if the file does not say and none was requested.
        level0_mpp: micrometres per pixel of level 0, or None.
        scale: level-0 pixels per pixel of ``region``, since annotations are drawn in level-0 pixels.
        level0_size: (height, width) of level 0.
        metadata: further information in the file.
        bounds: the scanned part of level 0, if the file says that it is less than all of it; None otherwise.
        notes: what was chosen or changed on the way to these pixels, one line each.

    Raises:
        DataError: a resolution is requested, but neither the file nor the override states that of level 0.
    """

    def __init__(
        self, path: Path, reader: SlideReader, target_mpp: float | None, mpp_override: float | None = None
    ) -> None:
        self.path = path
        self._reader = reader
        base = reader.levels[0]
        self.level0_size = (base.height, base.width)
        self.level0_mpp = reader.mpp if mpp_override is None else mpp_override
        self.metadata: Mapping[str, str] = reader.metadata
        self.bounds: Bounds | None = reader.bounds
        self.notes = reader.notes
        self.mpp = self.level0_mpp if target_mpp is None else target_mpp
        self.scale = 1.0
        if target_mpp is not None:
            if self.level0_mpp is None:
                raise DataError(f"{path}: the file does not say its resolution; fill the manifest's column 'mpp'")
            self.scale = target_mpp / self.level0_mpp
        self._view = self._view_at(self.scale)
        self.height, self.width = self._view.height, self._view.width

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self.path}: an open slide does not go to another process; open it there")

    def region(self, y: int, x: int, height: int, width: int) -> Pixels:
        """Return a region in pixels at ``mpp``, (height, width, 3) uint8 RGB; white beyond the slide's edge.

        Its pixels do not depend on the extent of the requested region.

        Raises:
            DataError: the file cannot be decoded there.
        """
        return self._view.region(y, x, height, width)

    def thumbnail(self, max_px: int = 1024) -> Pixels:
        """Return the whole slide, with its longer side at most ``max_px`` (and level 0's), (h, w, 3) uint8."""
        view = self._view_at(max(1.0, max(self.level0_size) / max_px))
        return view.region(0, 0, view.height, view.width)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def _view_at(self, scale: float) -> LevelView:
        levels = self._reader.levels
        fine_enough = [index for index, level in enumerate(levels) if level.downsample <= scale * _FINE_ENOUGH]
        best = max(fine_enough, key=lambda index: levels[index].downsample, default=0)
        height, width = (max(1, round(side / scale)) for side in self.level0_size)
        return LevelView(self._reader, best, height, width)
