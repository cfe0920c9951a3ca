"""Counts of pixels with torch, for labels on a GPU: the numbers of the numpy kernels in ``slide_counts``.

No operation waits for the GPU or needs the number of annotated pixels: those that are not counted fall into one more
bin. Integers are equal to numpy's. So are the float64 sums of probabilities, in whatever order a GPU adds them: a
float32 of at least 1/512 is a multiple of 2^-32, so a sum over fewer than 2^21 of them is exact, and a part of a slide
has fewer. Log-losses may differ in float32's last digit, as each device has its own logarithm.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.evaluation.canvas import LabelCanvas
from tissuebench.results.records.trial_result import CALIBRATION_BINS

_LANES = 32
_SMALLEST = float(np.finfo(np.float32).eps)


def confusion(truth: Tensor, predicted: Tensor, n_classes: int) -> Tensor:
    """Return ``counts[truth, predicted]`` over annotated pixels, (K, K) int64.

    Args:
        truth: (h, w) uint8 class ids, ``IGNORE_LABEL`` where not annotated.
        predicted: (h, w) uint8 class ids.
        n_classes: K.
    """
    pairs = torch.where(truth == IGNORE_LABEL, n_classes**2, truth.long() * n_classes + predicted)
    return _tally(pairs, n_classes**2).view(n_classes, n_classes)


def calibration_bins(truth: Tensor, predicted: Tensor, confidence: Tensor) -> Tensor:
    """Return ``slide_counts.calibration_bins`` of (h, w) tensors, (``CALIBRATION_BINS``, 3) float64."""
    said = confidence.double()
    bins = (said * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    bins = torch.where(truth == IGNORE_LABEL, CALIBRATION_BINS, bins)
    right = torch.where(truth == predicted, bins, CALIBRATION_BINS)
    columns = _tally(bins, CALIBRATION_BINS), _tally(bins, CALIBRATION_BINS, said), _tally(right, CALIBRATION_BINS)
    return torch.stack([column.double() for column in columns], dim=-1)


def areas(tissue: Tensor, predicted: Tensor, n_classes: int) -> Tensor:
    """Return the number of pixels of each class where ``tissue``, (h, w) bool, is true, (K,) int64."""
    return _tally(torch.where(tissue, predicted.long(), n_classes), n_classes)


def log_loss(truth: Tensor, probabilities: Tensor) -> Tensor:
    """Return the sum of ``-log p`` of the true class over annotated pixels, () float64; p is at least 1.2e-7.

    Args:
        truth: (h, w) uint8 class ids, ``IGNORE_LABEL`` where not annotated.
        probabilities: (K, h, w) float32.
    """
    labels = truth.long()
    annotated = labels != IGNORE_LABEL
    of_truth = probabilities.gather(0, labels.masked_fill(~annotated, 0)[None])[0]
    return -of_truth.clamp(min=_SMALLEST).log().mul(annotated).double().sum()


def _tally(bins: Tensor, n: int, weights: Tensor | None = None) -> Tensor:
    """Return how often each of n bins occurs, (n,) int64, or the sum of its weights; bin n is left out.

    Unlike ``torch.bincount``, this neither waits for the GPU to learn the largest bin nor refuses weights where
    deterministic algorithms are demanded. Neighbours, most of one class, add to places of their own: additions to one
    place come one after the other.
    """
    flat = bins.flatten()
    lanes = torch.arange(flat.numel(), device=flat.device) % _LANES
    ones = torch.ones_like(flat) if weights is None else weights.flatten()
    sums = torch.zeros((n + 1) * _LANES, dtype=ones.dtype, device=flat.device)
    return sums.scatter_add_(0, flat * _LANES + lanes, ones).view(n + 1, _LANES).sum(dim=1)[:n]


def on_device(array: NDArray[np.uint8] | NDArray[np.bool_], device: torch.device) -> Tensor:
    """Return an array on a device; a GPU copies it while the caller goes on."""
    host = torch.from_numpy(np.ascontiguousarray(array))
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


class CanvasWriter:
    """Writes labels to a canvas; those on a GPU one call late, so that nothing waits for their copy.

    Args:
        canvas: the canvas.
    """

    def __init__(self, canvas: LabelCanvas) -> None:
        self._canvas = canvas
        self._coming: tuple[torch.cuda.Event, Tensor, int, int] | None = None

    def write(self, labels: Tensor, y: int, x: int) -> None:
        """Write class ids (h, w) uint8 whose upper left pixel is (y, x), the latest by ``finish``."""
        if labels.device.type != "cuda":
            self._canvas.write(labels.cpu().numpy(), y, x)
            return
        host = torch.empty(labels.shape, dtype=labels.dtype, pin_memory=True)
        host.copy_(labels.contiguous(), non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(labels.device))
        self.finish()
        self._coming = copied, host, y, x

    def finish(self) -> None:
        """Write what is still on its way."""
        if self._coming is not None:
            copied, host, y, x = self._coming
            self._coming = None
            copied.synchronize()
            self._canvas.write(host.numpy(), y, x)
