"""The hash of a raster's pixels, block by block: the same whatever chunks, codec or order of writing it has."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from tissuebench.common.hashing import content_hash


class RasterDigest:
    """Sha256 over the shape and the blocks of ``pyramid.blocks``, fed in that order."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._sha = hashlib.sha256(content_hash(list(shape)).encode())

    def update(self, block: NDArray[np.generic]) -> None:
        """The next block."""
        self._sha.update(np.ascontiguousarray(block).data)

    def hexdigest(self) -> str:
        """The hash so far, hex."""
        return self._sha.hexdigest()


def array_digest(*arrays: NDArray[np.generic]) -> str:
    """Sha256 of small arrays: shapes and bytes."""
    digest = RasterDigest(tuple(side for array in arrays for side in array.shape))
    for array in arrays:
        digest.update(array)
    return digest.hexdigest()
