"""Pixels of a batch that is spread over several processes, numbered as in a single one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tissuebench.methods.api.whole_batch import gathered


@dataclass(frozen=True, slots=True)
class SpreadPixels:
    """Positions of this process's images in the whole batch, and the order of the images that all processes hold.

    Collective: all processes must use it equally often.

    Attributes:
        places: (B,) int64, position of each image of this process in the whole batch.
        order: (B of all processes,) int64, puts the images that are gathered in rank order into the whole batch's.
    """

    places: Tensor
    order: Tensor

    @classmethod
    def of(cls, places: Tensor) -> SpreadPixels:
        """Gather the places of all processes, (B,) int64 in each."""
        return cls(places, torch.cat(gathered(places)).argsort())

    def whole(self, images: Tensor) -> Tensor:
        """Return values (B, ...) of this process's images as those of the whole batch, without gradient."""
        return torch.cat(gathered(images))[self.order]

    def own(self, pixels: Tensor, per_image: int) -> tuple[Tensor, Tensor]:
        """Select the pixels that are in images of this process.

        Args:
            pixels: (N,) int64, numbers in the whole batch.
            per_image: pixels of an image.

        Returns:
            (M,) int64, the indices of the selected entries, and (M,) int64, their numbers among this process's pixels.
        """
        held = torch.full_like(self.order, -1)
        held[self.places] = torch.arange(len(self.places), device=held.device)
        image = held[pixels // per_image]
        chosen = (image >= 0).nonzero().flatten()
        return chosen, image[chosen] * per_image + pixels[chosen] % per_image
