"""Colour lookup for RGB label images: exact colours to class ids, or equal channels to grey values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

_ROWS = 1024


class ColorTable:
    """Lookup table from the colours of a class map to class ids; only exact colours match, not blends.

    Args:
        path: the label image, for messages.
        class_map: classes with their colours.
    """

    def __init__(self, path: Path, class_map: ClassMap) -> None:
        self._path = path
        self._last = class_map.names[-1]
        codes = np.array([_packed(np.array(color)) for color in class_map.colors])
        self._order = np.argsort(codes, kind="stable")
        self._codes = codes[self._order]
        same = np.flatnonzero(self._codes[1:] == self._codes[:-1])
        self._alike = [class_map.names[index] for index in self._order[same[0] : same[0] + 2]] if same.size else []

    def ids(self, pixels: NDArray[np.uint8], y: int = 0, x: int = 0) -> NDArray[np.uint8]:
        """Return the class ids (H, W) uint8 of RGB pixels.

        Args:
            pixels: (H, W, 3) uint8.
            y: row of the first pixel in the image, for messages.
            x: column of the first pixel in the image, for messages.

        Raises:
            DataError: a pixel's colour belongs to no class (the first such pixel is named), or two classes have the
                same colour.
        """
        if self._alike:
            raise DataError(
                f"{self._path}: is RGB, but classes {self._alike[0]!r} and {self._alike[1]!r} have the same colour; "
                "give one another"
            )
        ids = np.empty(pixels.shape[:2], dtype=np.uint8)
        for top in range(0, len(pixels), _ROWS):  # in strips, since the codes take eight bytes per pixel
            strip = _packed(pixels[top : top + _ROWS])
            nearest = np.minimum(np.searchsorted(self._codes, strip), len(self._codes) - 1)
            wrong = self._codes[nearest] != strip
            if wrong.any():
                row, column = np.argwhere(wrong)[0]
                color = tuple(pixels[top + row, column].tolist())
                remedy = "add its class, or save the mask without smoothing"
                if len(set(color)) == 1:
                    remedy = (
                        "if the mask is grey, or black and white, say in dataset.yaml what its values are, as in "
                        f"mask_values: {{0: null, 255: {self._last}}}, else add the colour's class"
                    )
                raise DataError(
                    f"{self._path}: colour {color} at x {x + column}, y {y + top + row} is not one of the class map; "
                    f"{remedy}"
                )
            ids[top : top + _ROWS] = self._order[nearest]
        return ids


class GreyTable:
    """Values of a grey image that was saved as RGB.

    Args:
        path: the label image, for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def ids(self, pixels: NDArray[np.uint8], y: int = 0, x: int = 0) -> NDArray[np.uint8]:
        """Return the values (H, W) uint8 of RGB pixels; the arguments are those of ``ColorTable.ids``.

        Raises:
            DataError: the channels of a pixel differ (the first such pixel is named).
        """
        values = pixels[..., 0]
        wrong = (pixels != values[..., None]).any(axis=2)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            color = tuple(pixels[row, column].tolist())
            raise DataError(
                f"{self._path}: colour {color} at x {x + column}, y {y + row} is not grey, and dataset.yaml maps grey "
                "values (mask_values); save the mask as grey values"
            )
        return np.ascontiguousarray(values)


def _packed(colors: NDArray[np.generic]) -> NDArray[np.int64]:
    codes: NDArray[np.int64] = colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return codes
