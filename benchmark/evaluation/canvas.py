"""Canvas for the predicted class ids of one slide: an array in memory if it is small, otherwise zarr in its own files.

Prediction writes a slide in bands; later steps that need borders or tiles read blocks. Neither holds the whole slide.
"""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore

from tissuebench.datasets.types import IGNORE_LABEL

CHUNK_PX = 512
_IN_MEMORY_PX = 1 << 26


class LabelCanvas(AbstractContextManager["LabelCanvas"]):
    """Array of class ids, ``IGNORE_LABEL`` where nothing was written; a context manager that removes its files.

    Args:
        height: height in pixels.
        width: width in pixels.
        folder: where to put the files of a large canvas; by default the system's temporary folder.
    """

    def __init__(self, height: int, width: int, folder: Path | None = None) -> None:
        self.height, self.width = height, width
        large = height * width > _IN_MEMORY_PX
        self._folder = tempfile.TemporaryDirectory(prefix=".canvas-", dir=folder) if large else None
        if self._folder is None:  # each access to zarr, even in memory, waits for another thread
            self._array: zarr.Array[Any] | NDArray[np.uint8] = np.full((height, width), IGNORE_LABEL, np.uint8)
            return
        self._array = zarr.create_array(
            LocalStore(self._folder.name),
            shape=(height, width),
            chunks=(min(CHUNK_PX, height), min(CHUNK_PX, width)),
            dtype="uint8",
            fill_value=IGNORE_LABEL,
            compressors=BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle", typesize=1),
        )

    def write(self, labels: NDArray[np.uint8], y: int, x: int) -> None:
        """Write a block (h, w) of class ids whose upper left pixel is (y, x)."""
        height, width = labels.shape
        self._array[y : y + height, x : x + width] = labels

    def read(self, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return the block (height, width) at (y, x), which must lie within the canvas."""
        return np.array(self._array[y : y + height, x : x + width], dtype=np.uint8)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> Self:
        return self
