"""Reading a whole level of a TIFF file."""

from __future__ import annotations

from tissuebench.datasets.readers.tiff import TiffReader


def whole(path, level=0):
    reader = TiffReader(path)
    size = reader.levels[level]
    pixels = reader.read(level, 0, 0, size.height, size.width)
    reader.close()
    return pixels
