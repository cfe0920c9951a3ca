"""Hash of a raster's pixels, computed block by block; independent of chunks, codec and order of writing."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from tissuebench.common.hashing import content_hash


class RasterDigest:
    """SHA-256 over the shape and the blocks of ``pyramid.blocks``, fed in that order."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._sha = hashlib.sha256(content_hash(list(shape)).encode())

    def update(self, block: NDArray[np.generic]) -> None:
        """Add the next block."""
        self._sha.update(np.ascontiguousarray(block).data)

    def hexdigest(self) -> str:
        """Return the hash so far, in hex."""
        return self._sha.hexdigest()


def array_digest(*arrays: NDArray[np.generic]) -> str:
    """Return the SHA-256 of the shapes and bytes of small arrays, in hex."""
    digest = RasterDigest(tuple(side for array in arrays for side in array.shape))
    for array in arrays:
        digest.update(array)
    return digest.hexdigest()
