"""Reader of MXNet's ``.params`` files, without MXNet: lists of named dense arrays, of any of the format's versions.

Layout, little-endian: u64 magic 0x112, u64 reserved, u64 count and that many arrays, u64 count and that many names (u64
length, UTF-8). An array is its shape, i32 device type, i32 device number, i32 type and its values. The shape is: in
version 0, u32 number of dimensions, u32 each; in version 1, u32 magic, u32 number of dimensions, i64 each; in version
2, u32 magic, i32 storage type (0, dense), and as in version 1. (``src/ndarray/ndarray.cc`` of Apache MXNet 1.x.)
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tissuebench.errors import ConfigError

_LIST, _VERSION_1, _VERSION_2 = 0x112, 0xF993FAC8, 0xF993FAC9
_DENSE = 0
_TYPES = {0: "<f4", 1: "<f8", 2: "<f2"}
_MOST_DIMENSIONS = 8


def read_params(path: Path) -> dict[str, Tensor]:
    """Return the named arrays of a ``.params`` file, float32, float64 or float16; nothing in it is run.

    Sizes are compared with the file before memory is taken.

    Raises:
        ConfigError: no such format, cut off, longer than its content, or arrays that are empty, sparse, no
            floating-point numbers or not named.
    """
    try:
        return _Cursor(np.memmap(path, np.uint8, "r")).arrays()
    except (OSError, ValueError) as error:  # also: an empty file cannot be mapped, names that are not UTF-8
        raise ConfigError(f"{path}: not an MXNet .params file, or damaged ({error})") from None


class _Cursor:
    """Position in the mapped bytes of a file."""

    def __init__(self, content: NDArray[np.uint8]) -> None:
        self._content, self._at = content, 0

    def arrays(self) -> dict[str, Tensor]:
        if self._numbers("Q") != (_LIST,):
            raise ValueError("wrong magic number")
        self._numbers("Q")
        (n_arrays,) = self._numbers("Q")
        arrays = [self._array() for _ in range(n_arrays)]  # each takes bytes: a count too high runs out of them
        (n_names,) = self._numbers("Q")
        if n_names != n_arrays:
            raise ValueError(f"{n_names} names for {n_arrays} arrays")
        names = [self._taken(*self._numbers("Q")).tobytes().decode() for _ in range(n_names)]
        if self._at != len(self._content):
            raise ValueError(f"{len(self._content) - self._at} bytes after the end")
        if len(set(names)) != len(names):
            raise ValueError("a name occurs twice")
        return dict(zip(names, arrays, strict=True))

    def _array(self) -> Tensor:
        (first,) = self._numbers("I")
        if first == _VERSION_2 and self._numbers("i") != (_DENSE,):
            raise ValueError("a sparse array")
        is_legacy = first not in (_VERSION_1, _VERSION_2)
        (n_dimensions,) = (first,) if is_legacy else self._numbers("I")
        if not 1 <= n_dimensions <= _MOST_DIMENSIONS:
            raise ValueError(f"an array of {n_dimensions} dimensions")
        shape = self._numbers(f"{n_dimensions}{'I' if is_legacy else 'q'}")
        if min(shape) < 1:
            raise ValueError(f"an array of shape {shape}")
        _, _, kind = self._numbers("iii")
        if kind not in _TYPES:
            raise ValueError(f"an array of type {kind}, not of floating-point numbers")
        values = self._taken(math.prod(shape) * np.dtype(_TYPES[kind]).itemsize).view(_TYPES[kind])
        return torch.from_numpy(values.reshape(shape).astype(values.dtype.newbyteorder("=")))

    def _numbers(self, kinds: str) -> tuple[int, ...]:
        layout = struct.Struct(f"<{kinds}")
        return layout.unpack(self._taken(layout.size).tobytes())

    def _taken(self, size: int) -> NDArray[np.uint8]:
        if size > len(self._content) - self._at:
            raise ValueError(f"cut off: {size} bytes wanted at {self._at} of {len(self._content)}")
        start, self._at = self._at, self._at + size
        return np.asarray(self._content[start : self._at])
