"""Pixel access for label images: whole in memory, or tile by tile from a TIFF."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffFileError, TiffPage

from tissuebench.datasets.annotations.label_colors import ColorTable
from tissuebench.errors import DataError

Values = NDArray[np.uint8]
_WHOLE_PX = 2**28
"""Maximum size of an image that is decoded as a whole; 256 MB as labels."""
_BROKEN = (UnidentifiedImageError, OSError, SyntaxError, ValueError)
_BROKEN_TIFF = (TiffFileError, OSError, ValueError, TypeError, IndexError, RuntimeError, struct.error, zlib.error)
_LOSSY = (COMPRESSION.JPEG, COMPRESSION.OJPEG, COMPRESSION.JPEG_2000_LOSSY)
_WANTED = "a label image is 8-bit palette or grey, or RGB in the colours of the class map"


class LabelPixels(Protocol):
    """Values of a label image: palette indices, grey values, or class ids of its colours.

    Attributes:
        size: (height, width).
    """

    size: tuple[int, int]

    def take(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Values:
        """Return the values at the intersections of rows and columns, (rows, columns) uint8.

        Raises:
            DataError: they cannot be decoded.
        """
        ...


class WholeImage:
    """Label image that is decoded once and kept in memory with one byte per pixel."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self.size = (values.shape[0], values.shape[1])

    def take(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Values:
        """Return the values at the intersections of rows and columns; see ``LabelPixels.take``."""
        return self._values[np.ix_(rows, columns)]


class TiledImage:
    """Tiled TIFF; a tile is decoded when one of its pixels is requested, and is not kept."""

    def __init__(self, path: Path, page: TiffPage, colors: ColorTable | None) -> None:
        self._path = path
        self._colors = colors
        self.size = (int(page.imagelength), int(page.imagewidth))
        self._tile = (int(page.tilelength), int(page.tilewidth))
        self._across = -(-self.size[1] // self._tile[1])
        self._decode = page.decode
        self._offsets, self._lengths = page.dataoffsets, page.databytecounts
        self._nodata = int(page.nodata)

    def take(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Values:
        """Return the values at the intersections of rows and columns; see ``LabelPixels.take``."""
        height, width = self._tile
        taken = np.empty((len(rows), len(columns)), dtype=np.uint8)
        for down in np.unique(rows // height).tolist():
            at_rows = np.flatnonzero(rows // height == down)
            for across in np.unique(columns // width).tolist():
                at_columns = np.flatnonzero(columns // width == across)
                inside = np.ix_(rows[at_rows] - down * height, columns[at_columns] - across * width)
                taken[np.ix_(at_rows, at_columns)] = self._tile_values(down, across)[inside]
        return taken

    def _tile_values(self, down: int, across: int) -> Values:
        index = down * self._across + across
        try:
            data = b""
            if self._lengths[index]:
                with self._path.open("rb") as file:
                    file.seek(self._offsets[index])
                    data = file.read(self._lengths[index])
            segment = self._decode(data, index)[0] if data else None
        except _BROKEN_TIFF as error:
            raise _unreadable(self._path, error) from None
        top, left = down * self._tile[0], across * self._tile[1]
        if segment is None:  # a tile that was never written consists of the nodata value
            shape = (*self._tile, 3) if self._colors else self._tile
            segment = np.full((1, *shape), self._nodata, dtype=np.uint8)
        pixels: Values = segment[0]
        if self._colors is None:
            return pixels.reshape(pixels.shape[:2])
        # Crop the padding of tiles at the image's edge.
        pixels = pixels[: self.size[0] - top, : self.size[1] - left]
        return self._colors.ids(pixels, top, left)


def open_tiff(path: Path, colors: ColorTable | None) -> LabelPixels:
    """Open the first page of a TIFF.

    Args:
        path: the file.
        colors: colour table for RGB; None refuses RGB.

    Raises:
        DataError: unreadable, not 8 bits per sample, lossy compression, or too large and not tiled.
    """
    try:
        with TiffFile(path) as tif:
            page = tif.pages.first
            samples, kind = page.samplesperpixel, page.photometric
            rgb = samples == 3 and kind == PHOTOMETRIC.RGB and page.planarconfig == 1
            indexed = samples == 1 and kind in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.PALETTE)
            if page.dtype != np.uint8 or page.bitspersample != 8 or not (indexed or (rgb and colors)):
                raise DataError(
                    f"{path}: {_WANTED}, this is {samples} x {page.bitspersample} bit {getattr(kind, 'name', kind)}"
                )
            if page.compression in _LOSSY:
                raise DataError(
                    f"{path}: is compressed with {page.compression.name}, which changes values; use deflate"
                )
            if page.is_tiled:
                return TiledImage(path, page, colors if rgb else None)
            if page.imagelength * page.imagewidth > _WHOLE_PX:
                raise _too_large(path)
            values = np.asarray(page.asarray())
    except _BROKEN_TIFF as error:
        raise _unreadable(path, error) from None
    return WholeImage(colors.ids(values) if rgb and colors else values)


def open_plain(path: Path, colors: ColorTable | None) -> LabelPixels:
    """Open a PNG or BMP.

    Args:
        path: the file.
        colors: colour table for RGB; None refuses RGB.

    Raises:
        DataError: unreadable, too large, unsupported mode, or a colour that belongs to no class.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in (("P", "L", "RGB") if colors else ("P", "L")):
                raise DataError(f"{path}: {_WANTED}, this is {image.mode!r}")
            values = np.array(image, dtype=np.uint8)
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except _BROKEN as error:
        raise _unreadable(path, error) from None
    return WholeImage(colors.ids(values) if values.ndim == 3 and colors else values)


def _too_large(path: Path) -> DataError:
    return DataError(f"{path}: has too many pixels to be decoded at once; save it as a tiled TIFF")


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read as an image ({' '.join(str(error).split())}); replace it")
