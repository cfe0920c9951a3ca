"""Images that are stored turned or mirrored, shown upright: TIFF tag 274 and the EXIF field of the same number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tissuebench.datasets.readers.reader import Level, Pixels, SlideReader
from tissuebench.errors import DataError

ORIENTATIONS = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored and turned by 90 degrees to the left",
    6: "turned by 90 degrees to the right",
    7: "mirrored and turned by 90 degrees to the right",
    8: "turned by 90 degrees to the left",
}
"""Turns that bring stored pixels into the shown position (TIFF 6.0, tag 274); 1 is upright."""
_FROM_BELOW, _FROM_RIGHT, _TRANSPOSED = (3, 4, 7, 8), (2, 3, 6, 7), (5, 6, 7, 8)


def turned_note(orientation: int) -> str:
    """Return the note on a turned image."""
    return f"{ORIENTATIONS[orientation]} as viewers show it, since the file says so (orientation {orientation})"


class UprightReader:
    """Another reader's pixels as viewers show them, exactly; implements ``SlideReader``.

    Pyramids are refused: image viewers turn them, OpenSlide and QuPath do not, so annotations may be drawn either way.

    Args:
        path: file name for errors.
        reader: of one level; closed with this one.
        orientation: 2 to 8; see ``ORIENTATIONS``.

    Raises:
        DataError: the image has several levels.
    """

    def __init__(self, path: Path, reader: SlideReader, orientation: int) -> None:
        if len(reader.levels) > 1:
            reader.close()
            raise DataError(
                f"{path}: its orientation tag says {orientation} ({ORIENTATIONS[orientation]}), which image viewers "
                "follow and slide viewers ignore; save the slide upright, with orientation 1"
            )
        self._reader, self._orientation = reader, orientation
        stored = reader.levels[0]
        sides = (stored.width, stored.height) if orientation in _TRANSPOSED else (stored.height, stored.width)
        self.levels: tuple[Level, ...] = (Level(*sides, 1.0),)
        self.mpp, self.metadata, self.bounds = reader.mpp, reader.metadata, reader.bounds
        self.notes = (*reader.notes, turned_note(orientation))

    def read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Return a region; see ``SlideReader.read``."""
        size = self.levels[level]
        from_below, from_right = self._orientation in _FROM_BELOW, self._orientation in _FROM_RIGHT
        top = size.height - y - height if from_below else y
        left = size.width - x - width if from_right else x
        if self._orientation in _TRANSPOSED:
            pixels = self._reader.read(level, left, top, width, height).transpose(1, 0, 2)
        else:
            pixels = self._reader.read(level, top, left, height, width)
        return np.ascontiguousarray(pixels[:: -1 if from_below else 1, :: -1 if from_right else 1])

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
