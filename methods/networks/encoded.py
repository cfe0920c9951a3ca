"""Maps of an encoder in place of the images that they were computed from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from torch import Tensor


class Encoded(tuple[Tensor, ...]):
    """Maps that ``ImageEncoder.encode`` returned for images, finest first, each (B, C_i, H_i, W_i).

    Maps of padded images do not tell the size of the images; hence ``size``.

    Attributes:
        size: height and width of the images in pixels, without padding.

    Examples:
        >>> import torch
        >>> encoded = Encoded([torch.zeros(2, 24, 16, 16), torch.zeros(2, 40, 8, 8)], size=(60, 64))
        >>> len(encoded), encoded.size
        (2, (60, 64))
    """

    size: tuple[int, int]

    def __new__(cls, maps: Iterable[Tensor], size: tuple[int, int]) -> Self:
        """Create the tuple; it is immutable, so this cannot be done in ``__init__``."""
        made = super().__new__(cls, maps)
        made.size = size
        return made

    def __getnewargs__(self) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        """Return the arguments for copies."""
        return tuple(self), self.size
