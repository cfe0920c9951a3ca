"""One level of a TIFF pyramid: only the tiles or strips that a region overlaps are read and decoded."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from tissuebench.datasets.readers.images import NotRgbError
from tissuebench.datasets.readers.reader import Pixels
from tissuebench.datasets.readers.regions import WHITE, inside, on_background, white
from tissuebench.errors import DataError

CACHE_BYTES = 128 << 20
"""Cache size per slide: a row of strips of a wide slide. The newest segment is kept whatever its size."""
MAX_SEGMENT_BYTES = 1 << 30
_RGB, _GREY, _YCBCR = 2, 1, 6  # tag 262 PhotometricInterpretation
_JPEG = (6, 7, 34892, 33007)  # codecs that convert YCbCr to RGB when decoding
_APERIO_YCBCR = 33003  # JPEG 2000 with undeclared YCbCr
_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2  # tag 338 ExtraSamples: alpha premultiplied into the colours, or not

SegmentKey = tuple[int, int, int]


class SegmentCache:
    """Cache of a slide's decoded segments; the least recently used are evicted first."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[SegmentKey, Pixels] = OrderedDict()
        self._bytes = 0

    def get(self, key: SegmentKey) -> Pixels | None:
        """Return the segment cached under a key, or None."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: SegmentKey, pixels: Pixels) -> None:
        """Cache a segment, evicting older ones to stay within the limit."""
        self._kept[key] = pixels
        self._bytes += pixels.nbytes
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Remove all segments."""
        self._kept.clear()
        self._bytes = 0


@dataclass(frozen=True, slots=True)
class _Plane:
    """Location of some samples of a pixel: the page, the index of its first such segment, and the samples."""

    page: tifffile.TiffPage | tifffile.TiffFrame
    first_segment: int
    samples: slice


class TiffLevel:
    """8-bit RGB or RGBA pixels of a level: interleaved, in planes of one page, or in one page per sample.

    Args:
        path: file name for errors.
        number: number of the level, for the cache.
        series: the level as found by tifffile.
        cache: shared by the levels of a slide.

    Raises:
        DataError: not 8-bit RGB, truncated, contradictory tags, or a segment too large to decode at once.
    """

    def __init__(self, path: Path, number: int, series: tifffile.TiffPageSeries, cache: SegmentCache) -> None:
        self._path, self._number, self._cache = path, number, cache
        page = series.keyframe
        self._page = page
        self._planes, self._samples = _planes(path, series)
        self.height, self.width = int(page.imagelength), int(page.imagewidth)
        tile = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        self._tile_height, self._tile_width = min(int(tile[0]), 1 << 31), int(tile[1])
        if min(self.height, self.width, self._tile_height, self._tile_width) < 1:
            raise DataError(f"{path}: a level has no pixels (its tags are damaged); replace the file")
        self._across = -(-self.width // self._tile_width)
        self._down = -(-self.height // self._tile_height)
        self._require_whole()

    def read(self, y: int, x: int, height: int, width: int) -> Pixels:
        """Return a region, (height, width, 3) uint8; white beyond the edge and where a tile has no bytes."""
        canvas = white(height, width)
        y0, y1 = inside(y, height, self.height)
        x0, x1 = inside(x, width, self.width)
        if y1 > y0 and x1 > x0:
            samples = np.full((y1 - y0, x1 - x0, self._samples), WHITE, dtype=np.uint8)
            for row in range(y0 // self._tile_height, -(-y1 // self._tile_height)):
                for column in range(x0 // self._tile_width, -(-x1 // self._tile_width)):
                    self._paste(samples, y0, x0, row, column)
            canvas[y0 - y : y1 - y, x0 - x : x1 - x] = self._as_rgb(samples)
        return canvas

    def _paste(self, canvas: Pixels, y0: int, x0: int, row: int, column: int) -> None:
        top, left = row * self._tile_height, column * self._tile_width
        low_y, high_y = max(top, y0), min(top + self._tile_height, y0 + canvas.shape[0])
        low_x, high_x = max(left, x0), min(left + self._tile_width, x0 + canvas.shape[1])
        for plane, place in enumerate(self._planes):
            pixels = self._segment(plane, row * self._across + column)
            if pixels is not None:
                part = pixels[low_y - top : high_y - top, low_x - left : high_x - left]
                canvas[low_y - y0 : high_y - y0, low_x - x0 : high_x - x0, place.samples] = part

    def _segment(self, plane: int, index: int) -> Pixels | None:
        key = (self._number, plane, index)
        kept = self._cache.get(key)
        if kept is not None:
            return kept
        place = self._planes[plane]
        page, number = place.page, place.first_segment + index
        count = page.databytecounts[number]
        if count == 0:  # scanners omit tiles of bare glass
            return None
        decode = page.decode  # creating it may move the file position
        file = self._page.parent.filehandle
        file.seek(page.dataoffsets[number])
        options = {"jpegtables": page.jpegtables}
        if getattr(page, "jpegheader", None) is not None:  # Hamamatsu's strips share one header
            options["jpegheader"] = page.jpegheader
        decoded = np.asarray(decode(file.read(count), number, **options)[0][0], dtype=np.uint8)
        self._cache.put(key, decoded)
        return decoded

    def _as_rgb(self, samples: Pixels) -> Pixels:
        if self._samples == 3:
            return samples
        alpha = int(self._page.extrasamples[0]) if self._page.extrasamples else None
        if alpha not in (_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED):
            return samples[..., :3]  # a fourth sample that is not declared
        return on_background(samples, premultiplied=alpha != _UNASSOCIATED)  # unspecified is associated, as in libtiff

    def _require_whole(self) -> None:
        segments = self._across * self._down
        length = self._page.parent.filehandle.size
        for place in self._planes:
            offsets, counts = place.page.dataoffsets, place.page.databytecounts
            if not place.first_segment + segments <= len(offsets) == len(counts):
                raise DataError(f"{self._path}: tags of a level contradict each other; replace the file")
            # A truncated JPEG strip decodes without an error, with the remainder grey.
            if any(start + count > length for start, count in zip(offsets, counts, strict=True)):
                raise DataError(f"{self._path}: is cut off (pixels beyond the end of the file); replace the file")
        rows = self._tile_height if self._page.is_tiled else min(self._tile_height, self.height)
        if rows * self._tile_width * self._samples > MAX_SEGMENT_BYTES:
            raise DataError(
                f"{self._path}: one piece of {rows} x {self._tile_width} px is too large to decode at once; "
                "convert the slide to a tiled TIFF"
            )


def is_rgb(path: Path, series: tifffile.TiffPageSeries) -> bool:
    """Return whether a series can be read as 8-bit RGB, as far as its tags tell."""
    try:
        _planes(path, series)
    except NotRgbError:
        return False
    except DataError:  # damaged or in a foreign codec: refused if it is the one to read
        return True
    return True


def _planes(path: Path, series: tifffile.TiffPageSeries) -> tuple[tuple[_Plane, ...], int]:
    page, pages = series.keyframe, list(series.pages)
    colours = (_RGB, _YCBCR) if int(page.compression) in _JPEG else (_RGB,)
    channels = series.axes == "CYX" and page.samplesperpixel == 1 and len(pages) == 3 and page.photometric == _GREY
    interleaved = series.axes == "YXS" and page.samplesperpixel in (3, 4) and page.photometric in colours
    separate = series.axes == "SYX" and page.samplesperpixel in (3, 4) and page.photometric == _RGB
    if series.dtype != np.uint8 or page.bitspersample != 8 or not (channels or interleaved or separate):
        raise NotRgbError(
            f"{path}: not 8-bit RGB (shape {tuple(series.shape)}, {series.dtype}, {_colour_name(page)}); "
            "convert it or leave it out"
        )
    if int(page.compression) == _APERIO_YCBCR:
        raise DataError(
            f"{path}: its JPEG 2000 tiles hold YCbCr, which is not decoded here; name the reader 'openslide'"
        )
    if any(one is None for one in pages):
        raise DataError(f"{path}: a channel has no page; replace the file")
    if channels:
        return tuple(_Plane(one, 0, slice(number, number + 1)) for number, one in enumerate(pages)), 3
    samples = int(page.samplesperpixel)
    if interleaved:
        return (_Plane(pages[0], 0, slice(0, samples)),), samples
    segments = len(page.dataoffsets) // samples
    return tuple(_Plane(page, number * segments, slice(number, number + 1)) for number in range(samples)), samples


def _colour_name(page: tifffile.TiffPage) -> str:
    name = getattr(page.photometric, "name", None)
    return str(name).lower() if name else f"photometric {page.photometric}"
