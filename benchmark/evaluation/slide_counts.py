"""Counts of pixels per slide, as a torchmetrics ``Metric`` whose states are summed over the processes of a trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.evaluation import gpu_counts
from tissuebench.evaluation.stitching import Strip
from tissuebench.results.metrics import calibration_gaps, miou
from tissuebench.results.records.object_metrics import SUMS
from tissuebench.results.records.trial_result import CALIBRATION_BINS
from tissuebench.runtime.processes import sum_over_processes

_CPU = torch.device("cpu")
_STATES: dict[str, tuple[torch.dtype, Callable[[int], tuple[int, ...]]]] = {  # numbers per slide of K classes
    "confusion": (torch.int64, lambda k: (k, k)),
    "boundaries": (torch.int64, lambda k: (k, 4)),
    "areas": (torch.int64, lambda k: (k,)),
    "calibration": (torch.float64, lambda k: (CALIBRATION_BINS, 3)),
    "objects": (torch.float64, lambda k: (k, len(SUMS))),
    "log_loss": (torch.float64, lambda k: ()),
    "seconds": (torch.float64, lambda k: ()),
}


@dataclass(frozen=True, eq=False, slots=True)
class Counts:
    """Counts of N slides over all processes.

    Attributes:
        confusion: ``confusion[slide, truth, predicted]`` over annotated pixels, (N, K, K) int64.
        boundaries: (N, K, 4) int64, see ``boundary_counts``.
        areas: (N, K) int64 pixels of tissue that are predicted as each class.
        calibration: (N, ``CALIBRATION_BINS``, 3) float64, see ``calibration_bins``.
        objects: (N, K, ``len(SUMS)``) float64, see ``class_object_sums``; 0 for classes without objects.
        log_loss: (N,) float64, sum of ``log_losses`` over annotated pixels; 0 where it was not asked for.
        seconds: (N,) float64.
    """

    confusion: NDArray[np.int64]
    boundaries: NDArray[np.int64]
    areas: NDArray[np.int64]
    calibration: NDArray[np.float64]
    objects: NDArray[np.float64]
    log_loss: NDArray[np.float64]
    seconds: NDArray[np.float64]

    def pooled_scores(self) -> dict[str, float]:
        """Return ``miou``, ``loss`` (mean log-loss) and ``ece`` over the annotated pixels of all slides."""
        pixels = max(int(self.confusion.sum()), 1)
        return {
            "miou": float(miou(self.confusion.sum(0))),
            "loss": float(self.log_loss.sum()) / pixels,
            "ece": float(np.abs(calibration_gaps(self.calibration.sum(0))).sum()) / pixels,
        }


class SlideCounts(Metric):
    """Counts of every slide; summed over the processes, each of which has updated some of the slides.

    Confusion and calibration use kernels on numpy labels, much faster than torchmetrics' own and than torch on CPUs;
    what a GPU has predicted is counted there, to the same numbers.

    Args:
        n_slides: N.
        n_classes: K.
        device: device that predicts.
    """

    full_state_update = False
    confusion: Tensor
    boundaries: Tensor
    areas: Tensor
    calibration: Tensor
    objects: Tensor
    log_loss: Tensor
    seconds: Tensor

    def __init__(self, n_slides: int, n_classes: int, device: torch.device = _CPU) -> None:
        super().__init__(dist_sync_fn=_summed)
        self._n_classes = n_classes
        for name, (dtype, shape) in _STATES.items():
            self.add_state(name, torch.zeros(n_slides, *shape(n_classes), dtype=dtype), dist_reduce_fx="sum")
        self.to(_CPU if uses_numpy(device) else device)

    def update(self, slide: int, **parts: Tensor | NDArray[np.int64] | NDArray[np.float64] | float) -> None:
        """Add to the counts of a slide.

        Args:
            slide: index of the slide.
            parts: an addend by name, see ``Counts``.
        """
        for name, part in parts.items():
            state = cast("Tensor", getattr(self, name))
            state[slide] += torch.as_tensor(part, device=state.device)

    def count(
        self,
        slide: int,
        part: Strip,
        truth: NDArray[np.uint8] | None,
        tissue: NDArray[np.bool_] | None,
        with_log_loss: bool,
    ) -> None:
        """Count the pixels of a predicted part of a slide, on the device that predicted it.

        Args:
            slide: index of the slide.
            part: the part, of h x w px.
            truth: (h, w) uint8 class ids, ``IGNORE_LABEL`` where not annotated; None counts no annotated pixels.
            tissue: (h, w) bool; None counts no areas.
            with_log_loss: whether to sum up the log-loss, too.
        """
        device, k = part.labels.device, self._n_classes
        if uses_numpy(device):
            if tissue is not None:
                self.update(slide, areas=np.bincount(part.classes[tissue], minlength=k))
            if truth is not None:
                self.compare(slide, truth, part.classes, part.confidence)
                if with_log_loss:
                    self.update(slide, log_loss=summed_log_loss(truth, part.probabilities))
            return
        if tissue is not None:
            self.update(slide, areas=gpu_counts.areas(gpu_counts.on_device(tissue, device), part.labels, k))
        if truth is not None:
            there = gpu_counts.on_device(truth, device)
            self.update(
                slide,
                confusion=gpu_counts.confusion(there, part.labels, k),
                calibration=gpu_counts.calibration_bins(there, part.labels, part.certainty),
            )
            if with_log_loss:
                self.update(slide, log_loss=gpu_counts.log_loss(there, part.probabilities))

    def compare(
        self,
        slide: int,
        truth: NDArray[np.uint8],
        predicted: NDArray[np.uint8],
        confidence: NDArray[np.float32],
    ) -> None:
        """Count the pixels of a part of a slide.

        Args:
            slide: index of the slide.
            truth: (h, w) uint8 class ids, ``IGNORE_LABEL`` where not annotated.
            predicted: (h, w) uint8 class ids.
            confidence: (h, w) float32, the probability of the predicted class.
        """
        self.update(
            slide,
            confusion=confusion(truth, predicted, self._n_classes),
            calibration=calibration_bins(truth, predicted, confidence),
        )

    def compute(self) -> dict[str, Tensor]:
        """Return ``Counts.pooled_scores`` as float64 tensors; every process must call this."""
        return {name: torch.tensor(score, dtype=torch.float64) for name, score in self._counts.pooled_scores().items()}

    def total(self) -> Counts:
        """Return the counts over all processes; every process must call this."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._counts

    @property
    def _counts(self) -> Counts:
        return Counts(**{name: cast("Tensor", getattr(self, name)).cpu().numpy().copy() for name in _STATES})


def uses_numpy(device: torch.device) -> bool:
    """Whether numpy counts what this device predicts; ``perf counting`` measures that it is faster on CPUs."""
    return device.type != "cuda"


def _summed(tensor: Tensor, group: object = None) -> list[Tensor]:
    """Return the sum over processes as torchmetrics' list of addends; like its own gathering, but for any device."""
    return [sum_over_processes(tensor)]


def confusion(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], n_classes: int) -> NDArray[np.int64]:
    """Return ``counts[truth, predicted]`` over annotated pixels, (K, K) int64."""
    annotated = truth != IGNORE_LABEL
    pairs = truth[annotated].astype(np.int64) * n_classes + predicted[annotated]
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def calibration_bins(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], confidence: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Bin annotated pixels by the probability of their predicted class, in equal bins from 0 to 1 (1 in the last).

    Returns:
        (``CALIBRATION_BINS``, 3) float64: pixels, sum of these probabilities, correct pixels.
    """
    annotated = truth != IGNORE_LABEL
    said = confidence[annotated].astype(np.float64)
    bins = np.minimum((said * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    right = (truth == predicted)[annotated]
    columns = [np.bincount(bins, weights, minlength=CALIBRATION_BINS) for weights in (None, said, right)]
    return np.stack(columns, -1).astype(np.float64)


def summed_log_loss(truth: NDArray[np.uint8], probabilities: Tensor) -> float:
    """Return the sum of ``-log p`` of the true class over annotated pixels; p is at least 1.2e-7, as 0 would be inf.

    Args:
        truth: (h, w) uint8 class ids, ``IGNORE_LABEL`` where not annotated.
        probabilities: (K, h, w) float32.
    """
    return float(gpu_counts.log_loss(gpu_counts.on_device(truth, probabilities.device), probabilities))
