"""One entrance for every slide format: regions at the target mpp, and how they map to level 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from tissuebench.datasets.readers.formats import open_reader
from tissuebench.datasets.readers.reader import Pixels, SlideReader
from tissuebench.datasets.readers.resample import LevelView
from tissuebench.errors import DataError

_FINE_ENOUGH = 1.01  # a level 1 % coarser than asked still serves: scanners round their magnifications


def open_slide(path: Path, target_mpp: float | None, mpp_override: float | None = None, reader: str = "") -> Slide:
    """Open a slide to read regions at ``target_mpp``, or at level 0 where that is None.

    Args:
        path: a slide file, or the folder of an OME-Zarr image; ``SLIDE_SUFFIXES`` are known.
        target_mpp: micrometres per pixel wanted.
        mpp_override: replaces what the file says of its level 0 (the manifest's column ``mpp``).
        reader: "tifffile", "openslide", "ome-zarr" or "plain"; empty goes by the suffix.

    Raises:
        DataError: missing, unreadable or unknown file, not 8-bit RGB, or no mpp where one is needed.
    """
    for mpp in (target_mpp, mpp_override):
        if mpp is not None and not 0 < mpp < math.inf:
            raise DataError(f"{path}: mpp {mpp} is not a resolution; micrometres per pixel are above 0")
    opened = open_reader(path, reader)
    try:
        return Slide(path, opened, target_mpp, mpp_override)
    except BaseException:
        opened.close()
        raise


class Slide:
    """An open slide at one resolution. Each process opens its own; one thread reads.

    A pyramid is read at its coarsest level that is still fine enough, then resized with an area filter; a level of
    just that resolution is passed on as it is. No more than about 4096 x 4096 source pixels are held at once.

    Attributes:
        height, width: in pixels of ``region``.
        mpp: micrometres a pixel of ``region``; None where the file does not say and none was asked for.
        level0_mpp: micrometres a pixel of level 0, or None.
        scale: pixels of level 0 a pixel of ``region``, as annotations are drawn in level-0 pixels.
        level0_size: (height, width) of level 0.
        metadata: what else the file says of itself.

    Raises:
        DataError: a resolution is asked for, and neither the file nor the override says its own.
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
        """A region in pixels at ``mpp``, (height, width, 3) uint8 RGB; white beyond the slide's edge.

        Its pixels do not depend on the region that they are asked for in.

        Raises:
            DataError: the file cannot be decoded there.
        """
        return self._view.region(y, x, height, width)

    def thumbnail(self, max_px: int = 1024) -> Pixels:
        """The whole slide, its longer side at most ``max_px`` (and level 0's), (h, w, 3) uint8."""
        view = self._view_at(max(1.0, max(self.level0_size) / max_px))
        return view.region(0, 0, view.height, view.width)

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()

    def _view_at(self, scale: float) -> LevelView:
        levels = self._reader.levels
        fine_enough = [index for index, level in enumerate(levels) if level.downsample <= scale * _FINE_ENOUGH]
        best = max(fine_enough, key=lambda index: levels[index].downsample, default=0)
        height, width = (max(1, round(side / scale)) for side in self.level0_size)
        return LevelView(self._reader, best, height, width)
