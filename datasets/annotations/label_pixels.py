"""Pixel access for label images: whole in memory, or tile by tile from a TIFF."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from tifffile import COMPRESSION, PHOTOMETRIC, SAMPLEFORMAT, TiffFile, TiffFileError, TiffPage

from tissuebench.datasets.annotations.label_colors import ColorTable, GreyTable
from tissuebench.errors import DataError

Values = NDArray[np.uint8]
Colors = ColorTable | GreyTable
_WHOLE_PX = 2**28
"""Maximum size of an image that is decoded as a whole; 256 MB as labels."""
_BROKEN = (UnidentifiedImageError, OSError, SyntaxError, ValueError)
_BROKEN_TIFF = (TiffFileError, OSError, ValueError, TypeError, IndexError, RuntimeError, struct.error, zlib.error)
_LOSSY = (COMPRESSION.JPEG, COMPRESSION.OJPEG, COMPRESSION.JPEG_2000_LOSSY)
_WANTED = "a label image is palette or grey, or RGB in the colours of the class map"
_MODES = ("P", "L", "1", "I", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 274
_MAX_VALUE = 255


class LabelPixels(Protocol):
    """Values of a label image: palette indices, grey values, or class ids of its colours.

    Attributes:
        size: (height, width).
        is_color: whether the image is RGB.
        is_palette: whether the values are indices of a palette.
        notes: what was changed on the way to these values, one line each.
    """

    size: tuple[int, int]
    is_color: bool
    is_palette: bool
    notes: tuple[str, ...]

    def take(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Values:
        """Return the values at the intersections of rows and columns, (rows, columns) uint8.

        Raises:
            DataError: they cannot be decoded.
        """
        ...


class WholeImage:
    """Label image that is decoded once and kept in memory with one byte per pixel."""

    def __init__(
        self, values: Values, is_color: bool = False, is_palette: bool = False, notes: tuple[str, ...] = ()
    ) -> None:
        self._values = values
        self.size = (values.shape[0], values.shape[1])
        self.is_color, self.is_palette, self.notes = is_color, is_palette, notes

    def take(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Values:
        """Return the values at the intersections of rows and columns; see ``LabelPixels.take``."""
        return self._values[np.ix_(rows, columns)]


class TiledImage:
    """Tiled TIFF; a tile is decoded when one of its pixels is requested, and is not kept."""

    def __init__(self, path: Path, page: TiffPage, colors: Colors | None) -> None:
        self._path = path
        self._colors = colors
        self.is_color = colors is not None
        self.is_palette = page.photometric == PHOTOMETRIC.PALETTE
        self.notes: tuple[str, ...] = ()
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
        pixels = segment[0]
        if self._colors is None:
            return _in_a_byte(self._path, pixels.reshape(pixels.shape[:2]))
        # Crop the padding of tiles at the image's edge.
        pixels = pixels[: self.size[0] - top, : self.size[1] - left]
        return self._colors.ids(pixels, top, left)


def open_tiff(path: Path, colors: Colors | None) -> LabelPixels:
    """Open the first page of a TIFF.

    Args:
        path: the file.
        colors: lookup for RGB; None refuses RGB.

    Raises:
        DataError: unreadable, neither 1 nor 8 nor 16 bits per sample, a value above 255, lossy compression, turned, or
            too large and not tiled.
    """
    try:
        with TiffFile(path) as tif:
            page = tif.pages.first
            samples, kind, bits = page.samplesperpixel, page.photometric, page.bitspersample
            rgb = samples == 3 and bits == 8 and kind == PHOTOMETRIC.RGB and page.planarconfig == 1
            indexed = samples == 1 and kind in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.PALETTE)
            whole = page.sampleformat in (SAMPLEFORMAT.UINT, SAMPLEFORMAT.INT) and bits in (1, 8, 16)
            if not ((indexed and whole) or (rgb and colors)):
                raise DataError(f"{path}: {_WANTED}, this is {samples} x {bits} bit {getattr(kind, 'name', kind)}")
            if page.compression in _LOSSY:
                raise DataError(
                    f"{path}: is compressed with {page.compression.name}, which changes values; use deflate"
                )
            turned = page.tags.valueof(_ORIENTATION, 1)
            if turned != 1:
                raise DataError(f"{path}: is stored turned (TIFF tag Orientation {turned}); save the mask upright")
            if page.is_tiled:
                return TiledImage(path, page, colors if rgb else None)
            if page.imagelength * page.imagewidth > _WHOLE_PX:
                raise _too_large(path)
            values = np.asarray(page.asarray())
    except _BROKEN_TIFF as error:
        raise _unreadable(path, error) from None
    if rgb and colors:
        return WholeImage(colors.ids(values), is_color=True)
    return WholeImage(_in_a_byte(path, values), is_palette=kind == PHOTOMETRIC.PALETTE)


def open_plain(path: Path, colors: Colors | None) -> LabelPixels:
    """Open a PNG or BMP; it is turned as its EXIF orientation says, as viewers show it.

    Args:
        path: the file.
        colors: lookup for RGB; None refuses RGB.

    Raises:
        DataError: unreadable, too large, unsupported mode, a value above 255, or a colour that belongs to no class.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
            if mode not in _MODES and not (mode == "RGB" and colors):
                raise DataError(f"{path}: {_WANTED}, this is {mode!r}")
            turned = image.getexif().get(_ORIENTATION, 1)
            values = np.array(ImageOps.exif_transpose(image) if turned != 1 else image)
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except _BROKEN as error:
        raise _unreadable(path, error) from None
    notes = () if turned == 1 else (f"the mask was turned as its EXIF orientation says ({turned})",)
    if values.ndim == 3 and colors:
        return WholeImage(colors.ids(values), is_color=True, notes=notes)
    return WholeImage(_in_a_byte(path, values), is_palette=mode == "P", notes=notes)


def _in_a_byte(path: Path, values: NDArray[np.generic]) -> Values:
    """Return values of 1 or 16 bits as uint8.

    Raises:
        DataError: a value does not fit.
    """
    if values.dtype not in (np.uint8, np.bool_) and values.size:
        low, high = values.min(), values.max()
        if low < 0 or high > _MAX_VALUE:
            wrong = low if low < 0 else high
            raise DataError(f"{path}: has the value {wrong}; a label image has values from 0 to {_MAX_VALUE}")
    return values.astype(np.uint8, copy=False)


def _too_large(path: Path) -> DataError:
    return DataError(f"{path}: has too many pixels to be decoded at once; save it as a tiled TIFF")


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read as an image ({' '.join(str(error).split())}); replace it")
