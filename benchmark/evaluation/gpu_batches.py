"""Number of windows that are predicted together: fixed on CPUs, on a GPU as many as its free memory holds."""

from __future__ import annotations

import torch

PIXELS_PER_BATCH = 1 << 19
_MOST_PIXELS = 1 << 22
"""64 windows of 256 px: more are no faster, and maps of 256 channels stay below the 2^31 values of 32-bit indices."""
_SHARE_OF_FREE = 0.5
"""The other half is for what the allocator cannot reuse, and for another trial on the same GPU."""


class BatchLimit:
    """Pixels of the windows that are predicted together.

    On a GPU, the memory that the first batch takes tells how many windows fit into half of what is free, up to
    ``_MOST_PIXELS``. Kernels differ by the size of a batch, so probabilities depend on it in float32's last digits.
    On a CPU, and where deterministic algorithms are demanded, batches are always of ``PIXELS_PER_BATCH``.

    Args:
        device: device that predicts.

    Attributes:
        pixels: the limit.
    """

    def __init__(self, device: torch.device, pixels: int = PIXELS_PER_BATCH) -> None:
        self._device, self.pixels = device, pixels
        self._is_measured = device.type != "cuda" or torch.are_deterministic_algorithms_enabled()
        self._reserved = 0

    def windows(self, size: tuple[int, int]) -> int:
        """Return how many windows of (height, width) px are predicted together, at least one."""
        return max(1, self.pixels // (size[0] * size[1]))

    def before_batch(self) -> None:
        """Note the memory in use, unless that of a batch is known."""
        if not self._is_measured:
            torch.cuda.empty_cache()  # memory that the allocator keeps would hide what the batch takes
            self._reserved = torch.cuda.memory_reserved(self._device)

    def after_batch(self, pixels: int) -> None:
        """Set the limit from the memory that a batch of windows of so many pixels in all took, if not yet known."""
        if self._is_measured or pixels < self.pixels // 2:  # the last few windows of a slide say little
            return
        self._is_measured = True
        kept = torch.cuda.memory_reserved(self._device)
        free = torch.cuda.mem_get_info(self._device)[0] + kept - torch.cuda.memory_allocated(self._device)
        self.pixels = affordable_pixels(pixels, kept - self._reserved, free)

    def halve(self, pixels: int) -> None:
        """Allow half of a batch that did not fit."""
        self._is_measured = True
        self.pixels = min(self.pixels, pixels // 2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def affordable_pixels(pixels: int, n_bytes: int, free_bytes: int) -> int:
    """Return the pixels of a batch for half of the free memory, if ``pixels`` took ``n_bytes``; at most 2^22.

    Never less than ``PIXELS_PER_BATCH``: a batch of this size has just been predicted.
    """
    fitting = int(_SHARE_OF_FREE * free_bytes / max(1, n_bytes) * pixels)
    return max(PIXELS_PER_BATCH, min(_MOST_PIXELS, fitting))
