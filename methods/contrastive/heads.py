"""What stands between a network's maps and the vectors that ACTION compares (You et al., IPMI 2023, official code).

All are linear: no norm and no activation between the layers. A student has a head and a predictor, a teacher a head.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class GlobalHead(nn.Module):
    """Vectors (B, out) of images from their deepest maps (B, C, h, w): mean over the pixels, two linear layers.

    Args:
        channels: C.
        hidden: between the layers.
        out: of the vectors.
    """

    def __init__(self, channels: int, hidden: int = 256, out: int = 512) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(channels, hidden), nn.Linear(hidden, out))

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        return cast("Tensor", self.proj(maps.mean(dim=(2, 3))))


class GlobalPredictor(nn.Sequential):
    """Vectors of the teacher's kind (B, width) from the student's (B, width): two linear layers."""

    def __init__(self, width: int = 512) -> None:
        super().__init__(nn.Linear(width, width), nn.Linear(width, width))


class LocalHead(nn.Module):
    """Vectors of windows from their logits: means of ``pool`` x ``pool`` parts, two 1x1 convolutions.

    Args:
        classes: C.
        pool: parts along an edge.
    """

    def __init__(self, classes: int, pool: int = 8) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.AdaptiveAvgPool2d(pool), nn.Conv2d(classes, 2 * classes, 1), nn.Conv2d(2 * classes, classes, 1)
        )

    def forward(self, windows: Tensor) -> Tensor:
        """(B, W, C pool^2) of windows (B, W, C, h, w); a class's parts stand together, in the order of the raster."""
        maps: Tensor = self.proj(windows.flatten(0, 1))
        return maps.view(*windows.shape[:2], -1)


class LocalPredictor(nn.Sequential):
    """Vectors of the teacher's kind from the student's: two 1x1 convolutions of the parts that a vector is made of.

    Args:
        classes: C.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Conv2d(classes, classes, 1), nn.Conv2d(classes, classes, 1))
        self._classes = classes

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, W, C pool^2) of (B, W, C pool^2)."""
        parts = vectors.reshape(-1, self._classes, vectors.shape[-1] // self._classes, 1)
        for layer in self:
            parts = layer(parts)
        return parts.reshape(vectors.shape)
