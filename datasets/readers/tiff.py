"""Tiled and pyramidal TIFF through tifffile: the level that serves best, and the resolution tag."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import tifffile

from tissuebench.datasets.readers._raw import ChooseLevel, RawLevel
from tissuebench.errors import DataError

TIFF_SUFFIXES = (".tif", ".tiff", ".svs")
_BROKEN = (
    tifffile.TiffFileError, OSError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError, RuntimeError,
    struct.error,
)  # fmt: skip
"""What tifffile and imagecodecs raise on files whose tags or tiles are damaged."""
_MICROMETRES_PER_UNIT = {2: 25_400.0, 3: 10_000.0}  # TIFF ResolutionUnit: inch, centimetre


def read_tiff(path: Path, choose: ChooseLevel) -> RawLevel:
    """Read one level of the first series; see ``read_slide`` for the errors."""
    try:
        with tifffile.TiffFile(path) as tif:
            levels = tif.series[0].levels
            base = levels[0]
            if base.dtype != np.uint8 or base.ndim != 3 or base.shape[-1] != 3:
                raise DataError(f"{path}: not 8-bit RGB (shape {base.shape}, {base.dtype}); convert it or leave it out")
            mpp = _level0_mpp(tif.pages[0])
            index = choose(mpp, [base.shape[0] / level.shape[0] for level in levels])
            _require_whole(path, levels[index])
            pixels = np.asarray(levels[index].asarray(), dtype=np.uint8)
    except _BROKEN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read as a TIFF slide ({reason}); replace the file") from None
    return RawLevel(pixels, mpp, (int(base.shape[0]), int(base.shape[1])))


def _require_whole(path: Path, level: tifffile.TiffPageSeries) -> None:
    # A JPEG strip that is cut off decodes without an error, its rest grey.
    length = path.stat().st_size
    for page in level.pages:
        if any(start + count > length for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)):
            raise DataError(f"{path}: is cut off (pixels beyond the end of the file); replace the file")


def _level0_mpp(page: tifffile.TiffPage) -> float | None:
    unit, resolution = page.tags.get("ResolutionUnit"), page.tags.get("XResolution")
    if unit is None or resolution is None or int(unit.value) not in _MICROMETRES_PER_UNIT:
        return None
    pixels, per_units = resolution.value
    if not pixels or not per_units:
        return None
    mpp = float(_MICROMETRES_PER_UNIT[int(unit.value)] * per_units / pixels)
    return mpp if 0.05 <= mpp <= 20.0 else None  # 72 dpi and the like are a camera's habit, not a microscope's
