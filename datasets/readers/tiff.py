"""Reader of TIFF slides with tifffile: tiled, stripped, BigTIFF, plain and OME pyramids, Aperio SVS."""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from pathlib import Path

import tifffile

from tissuebench.datasets.readers.failures import reading
from tissuebench.datasets.readers.reader import Bounds, Level, Pixels
from tissuebench.datasets.readers.tiff_level import SegmentCache, TiffLevel
from tissuebench.datasets.readers.tiff_resolution import aperio_fields, require_plain_xml, tiff_mpp
from tissuebench.errors import DataError

TIFF_SUFFIXES = (".svs", ".tif", ".tiff")
_KIND = "a TIFF slide"
# Keep tifffile's warnings about damaged files from appearing next to the one-line error; a configured log gets them.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TiffReader:
    """First series of a TIFF with its levels; implements ``SlideReader``.

    Alpha is blended over white: pixels that a scanner never scanned are transparent, and mostly black underneath.

    Args:
        path: the file. It stays open; only one process and one thread may read from it.

    Raises:
        DataError: unreadable, truncated at any level, not 8-bit RGB, or pixels that are not square.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache = SegmentCache()
        with reading(path, _KIND, tifffile.TiffFileError):
            # One file only: OME-XML may reference others, and file names in data are not followed.
            self._tif = tifffile.TiffFile(path, _multifile=False)
        try:
            with reading(path, _KIND, tifffile.TiffFileError):
                self._open()
        except BaseException:
            self._tif.close()
            raise

    def read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Return a region; see ``SlideReader.read``."""
        with reading(self._path, _KIND, tifffile.TiffFileError):
            return self._tiff_levels[level].read(y, x, height, width)

    def close(self) -> None:
        """Close the file."""
        self._cache.clear()
        self._tif.close()

    def _open(self) -> None:
        tif, path = self._tif, self._path
        require_plain_xml(path, tif.pages.first)
        found = [TiffLevel(path, number, one, self._cache) for number, one in enumerate(tif.series[0].levels)]
        _require_all_pages(path, tif)
        self.mpp = tiff_mpp(path, tif)
        self.metadata: Mapping[str, str] = _aperio(tif.pages.first) if tif.is_svs else {}
        self.bounds: Bounds | None = None
        self.notes: tuple[str, ...] = ()
        levels = [(_level(found[0], one), one) for one in found]
        # Some scanners pad the small levels to whole tiles: their size does not match the position of their pixels.
        fitting = [(level, one) for level, one in levels if level is not None]
        self.levels = tuple(level for level, _ in fitting)
        self._tiff_levels = tuple(one for _, one in fitting)


def _aperio(page: tifffile.TiffPage) -> dict[str, str]:
    power = aperio_fields(page).get("AppMag")
    return {"vendor": "aperio"} | ({} if power is None else {"objective_power": power})


def _level(base: TiffLevel, one: TiffLevel) -> Level | None:
    downsample = (base.height / one.height + base.width / one.width) / 2
    off = max(abs(base.height / downsample - one.height), abs(base.width / downsample - one.width))
    return Level(one.height, one.width, downsample) if downsample >= 1 and off <= 2 else None


def _require_all_pages(path: Path, tif: tifffile.TiffFile) -> None:
    # tifffile stops at a dangling link and continues with fewer levels.
    end = tif.pages.next_page_offset
    if end is None or tif.is_ndpi:  # Hamamatsu writes its links differently
        return
    tif.filehandle.seek(end)
    link = tif.filehandle.read(tif.tiff.offsetsize)
    if len(link) < tif.tiff.offsetsize or struct.unpack(tif.tiff.offsetformat, link)[0]:
        raise DataError(f"{path}: is cut off (a page beyond the end of the file); replace the file")
