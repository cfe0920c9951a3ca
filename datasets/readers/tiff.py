"""Reader of TIFF slides with tifffile: tiled, stripped, BigTIFF, plain and OME pyramids, Aperio SVS."""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from pathlib import Path

import tifffile

from tissuebench.datasets.readers.failures import reading
from tissuebench.datasets.readers.images import FileImage, choose_image
from tissuebench.datasets.readers.reader import Bounds, Level, Pixels
from tissuebench.datasets.readers.tiff_level import SegmentCache, TiffLevel, is_rgb
from tissuebench.datasets.readers.tiff_resolution import aperio_fields, ome_mpp, require_plain_xml, tiff_mpp
from tissuebench.errors import DataError

TIFF_SUFFIXES = (".svs", ".tif", ".tiff")
_KIND = "a TIFF slide"
# Keep tifffile's warnings about damaged files from appearing next to the one-line error; a configured log gets them.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TiffReader:
    """The slide in a TIFF with its levels; implements ``SlideReader``.

    Alpha is blended over white: pixels that a scanner never scanned are transparent, and mostly black underneath.
    Slides of Ventana and Leica are refused: their tiles overlap, or several images share a canvas, as only OpenSlide
    puts them together. Tag 274 (Orientation) is left to ``upright``.

    Args:
        path: the file. It stays open; only one process and one thread may read from it.
        series: number or name of the image; if empty, see ``choose_image``.

    Attributes:
        orientation: value of tag 274, 1 to 8.

    Raises:
        DataError: unreadable, truncated at any level, not 8-bit RGB, pixels that are not square, or no such series.
    """

    def __init__(self, path: Path, series: str = "") -> None:
        self._path, self._series = path, series
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
        for vendor, is_of in (("Ventana", tif.is_bif), ("Leica SCN", tif.is_scn)):
            if is_of:
                raise DataError(f"{path}: is a {vendor} slide; name the reader 'openslide'")
        images = [image for series in tif.series for image in _separate(series)]
        number, self.notes = choose_image(path, [_image(path, tif, one) for one in images], self._series)
        chosen = images[number]
        found = [TiffLevel(path, at, one, self._cache) for at, one in enumerate(chosen.levels)]
        _require_all_pages(path, tif)
        page = chosen.keyframe
        self.mpp = tiff_mpp(path, tif, chosen)
        self.orientation = _orientation(page)
        self.metadata: Mapping[str, str] = _aperio(tif.pages.first) if tif.is_svs else {}
        self.bounds: Bounds | None = None
        levels = [(_level(found[0], one), one) for one in found]
        # Some scanners pad the small levels to whole tiles: their size does not match the position of their pixels.
        fitting = [(level, one) for level, one in levels if level is not None]
        self.levels = tuple(level for level, _ in fitting)
        self._tiff_levels = tuple(one for _, one in fitting)


def _separate(series: tifffile.TiffPageSeries) -> list[tifffile.TiffPageSeries]:
    """Return the pages of a stack as images: tifffile stacks pages only because they have the same size."""
    if series.axes != "IYXS" or len(series.levels) > 1:
        return [series]
    key = series.keyframe
    return [tifffile.TiffPageSeries([page], key.shape, key.dtype, key.axes) for page in series.pages]


def _image(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> FileImage:
    page = series.keyframe
    return FileImage(
        str(series.name or ""),
        int(page.imagelength),
        int(page.imagewidth),
        len(series.levels),
        _own_mpp(path, tif, series),
        is_rgb(path, series),
        bool(page.is_reduced),
        bool(page.is_tiled),
    )


def _own_mpp(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> float | None:
    try:
        return ome_mpp(path, tif, series) if tif.is_ome else None
    except DataError:  # pixels that are not square are refused only in the image that is read
        return None


def _orientation(page: tifffile.TiffPage) -> int:
    tag = page.tags.get("Orientation")
    value = 1 if tag is None else int(tag.value)
    return value if 1 <= value <= 8 else 1  # viewers ignore other values


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
