"""Projection and prediction heads of ACTION: from feature maps to vectors (You et al., IPMI 2023, official code).

All are linear: no norm and no activation between the layers. A student has a head and a predictor, a teacher only a
head.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from tissuebench.methods.networks.averaging import averaged


class GlobalHead(nn.Module):
    """Projection head for images: mean over the pixels of the deepest maps (B, C, h, w), then two linear layers.

    Args:
        channels: C.
        hidden: width between the layers.
        out: dimension of the vectors.
    """

    def __init__(self, channels: int, hidden: int = 256, out: int = 512) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(channels, hidden), nn.Linear(hidden, out))

    def forward(self, maps: Tensor) -> Tensor:
        """Return vectors (B, out) of maps (B, C, h, w)."""
        return cast("Tensor", self.proj(maps.mean(dim=(2, 3))))


class GlobalPredictor(nn.Sequential):
    """Predictor of the teacher's vectors (B, width) from the student's (B, width): two linear layers."""

    def __init__(self, width: int = 512) -> None:
        super().__init__(nn.Linear(width, width), nn.Linear(width, width))


class LocalHead(nn.Module):
    """Projection head for windows of logits: average pooling to ``pool`` x ``pool`` parts, then two 1x1 convolutions.

    Args:
        classes: C.
        pool: parts along an edge.
    """

    def __init__(self, classes: int, pool: int = 8) -> None:
        super().__init__()
        self.proj = nn.Sequential(Average(pool), nn.Conv2d(classes, 2 * classes, 1), nn.Conv2d(2 * classes, classes, 1))

    def forward(self, windows: Tensor) -> Tensor:
        """Return vectors (B, W, C pool^2) of windows (B, W, C, h, w), grouped by class, then in raster order."""
        maps: Tensor = self.proj(windows.flatten(0, 1))
        return maps.view(*windows.shape[:2], -1)


class Average(nn.Module):
    """Average over pool x pool cells."""

    def __init__(self, pool: int) -> None:
        super().__init__()
        self._pool = pool

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (B, C, h, w) as (B, C, pool, pool)."""
        return averaged(maps, (self._pool, self._pool))


class LocalPredictor(nn.Sequential):
    """Predictor of the teacher's window vectors from the student's: two 1x1 convolutions over a vector's parts.

    Args:
        classes: C.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Conv2d(classes, classes, 1), nn.Conv2d(classes, classes, 1))
        self._classes = classes

    def forward(self, vectors: Tensor) -> Tensor:
        """Return predicted vectors (B, W, C pool^2) from vectors of the same shape."""
        parts = vectors.reshape(-1, self._classes, vectors.shape[-1] // self._classes, 1)
        for layer in self:
            parts = layer(parts)
        return parts.reshape(vectors.shape)
