"""Slide-wise evaluation: every annotated pixel, and every pixel of a case's tissue, is counted exactly once.

Masks are compared on the annotated pixels of annotated slides. Cases need no mask: of each slide with one diagnosis all
tissue is predicted, annotated or not, and the area of each class is counted. A window that serves both is predicted
once. Slides are processed one by one, in bounded memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.store.pyramid import blocks
from tissuebench.datasets.store.tile_store import SlideInfo, TileStore
from tissuebench.datasets.store.tissue import tissue_pixels
from tissuebench.datasets.types import IGNORE_LABEL, Supervision, Tile
from tissuebench.evaluation.boundaries import boundary_counts, margin_px
from tissuebench.evaluation.canvas import LabelCanvas
from tissuebench.evaluation.overlays import ReadLabels, TilePicker
from tissuebench.evaluation.stitching import Stitching, strips
from tissuebench.methods.api.method import Method
from tissuebench.plans.schema import EvaluationSettings
from tissuebench.results.records.trial_result import CALIBRATION_BINS
from tissuebench.runtime.processes import ALONE, World, sum_over_processes

_BLOCK_PX = 2048


@dataclass(frozen=True, slots=True)
class CountedSlide:
    """Counts of one slide: over annotated pixels, ``areas`` over its tissue.

    Attributes:
        diagnosis: as the view has it; empty if it does not open diagnoses.
        counts: ``counts[truth, predicted]``, (K, K) int64.
        boundaries: (K, 4) int64, see ``boundary_counts``.
        calibration: (``CALIBRATION_BINS``, 3) float64, see ``calibration_bins``.
        areas: (K,) int64 pixels of tissue that are predicted as each class; 0 unless the slide ``has_case``.
        seconds: time taken.
    """

    slide: SlideInfo
    diagnosis: tuple[str, ...]
    counts: NDArray[np.int64]
    boundaries: NDArray[np.int64]
    calibration: NDArray[np.float64]
    areas: NDArray[np.int64]
    seconds: float


def evaluate(
    method: Method[Any],
    store: TileStore,
    view: LabelView,
    settings: EvaluationSettings,
    device: torch.device,
    precision: str,
    world: World = ALONE,
    progress: Callable[[int, int], None] = lambda done, total: None,
    picker: TilePicker | None = None,
) -> list[CountedSlide]:
    """Predict the slides of ``view`` and return the counts in the order of the view.

    A slide is predicted where it is annotated and, if it ``has_case``, over its tissue; others need no prediction.
    With several processes, each predicts its share and returns the counts of all; no slide is predicted twice.

    Args:
        method: the method to evaluate.
        store: the store with the images.
        view: the slides, and the masks to compare with.
        settings: windows, and tolerance of boundaries.
        device: device to predict on.
        precision: precision of the prediction, in Lightning's spelling.
        world: the processes; by default this one alone.
        progress: called with the number of slides done and the number of slides in this process's share.
        picker: receives the slides of this process's share.
    """
    method.eval()
    k = len(view.class_map)
    mine = shares([_cost(view, slide) for slide in view.slides], world.size)[world.rank]
    whole = np.zeros((len(view.slides), k, k + 5), dtype=np.int64)  # confusion, then boundaries, then areas
    parts = np.zeros((len(view.slides), CALIBRATION_BINS * 3 + 1))  # calibration, then seconds
    how, images = Stitching.of(settings, store.info.tile_px, device, precision), store.frugal()
    tolerance_px = settings.boundary_um / (store.info.mpp or 1.0)
    for done, index in enumerate(mine, start=1):
        found = _count(method, images, view, view.slides[index], how, tolerance_px, picker)
        whole[index] = np.column_stack((found.counts, found.boundaries, found.areas))
        parts[index, :-1], parts[index, -1] = found.calibration.ravel(), found.seconds
        progress(done, len(mine))
    whole = sum_over_processes(torch.from_numpy(whole)).numpy()
    parts = sum_over_processes(torch.from_numpy(parts)).numpy()
    return [
        CountedSlide(
            slide,
            _diagnosis(view, slide),
            counts=counted[:, :k],
            boundaries=counted[:, k : k + 4],
            calibration=part[:-1].reshape(CALIBRATION_BINS, 3),
            areas=counted[:, k + 4],
            seconds=float(part[-1]),
        )
        for slide, counted, part in zip(view.slides, whole, parts, strict=True)
    ]


def shares(costs: Sequence[int], n: int) -> list[list[int]]:
    """Split the indices of ``costs`` into ``n`` shares of similar sum: largest first, each to the cheapest share."""
    dealt: list[list[int]] = [[] for _ in range(n)]
    sums = [0] * n
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        cheapest = sums.index(min(sums))
        dealt[cheapest].append(index)
        sums[cheapest] += costs[index]
    return [sorted(share) for share in dealt]


def has_case(view: LabelView, slide: SlideInfo) -> bool:
    """Whether the slide counts in the scores of cases: it has one diagnosis, and the dataset others to tell it from."""
    return len(_diagnosis(view, slide)) == 1 and len(view.class_map.diagnoses) > 1


def _diagnosis(view: LabelView, slide: SlideInfo) -> tuple[str, ...]:
    return view.diagnosis(slide.slide_id) if Supervision.DIAGNOSIS in view.kinds else ()


def _is_annotated(view: LabelView, slide: SlideInfo) -> bool:
    return any(view.class_pixels(slide) or ())


def _cost(view: LabelView, slide: SlideInfo) -> int:
    """Pixels of a slide of which anything is predicted."""
    return slide.height * slide.width if _is_annotated(view, slide) or has_case(view, slide) else 0


def _count(
    method: Method[Any],
    store: TileStore,
    view: LabelView,
    slide: SlideInfo,
    how: Stitching,
    tolerance_px: float,
    picker: TilePicker | None,
) -> CountedSlide:
    """Predict the annotated regions of one slide and the tissue of a case, and count."""
    started = time.perf_counter()
    k = len(view.class_map)
    counts, calibration = np.zeros((k, k), dtype=np.int64), np.zeros((CALIBRATION_BINS, 3))
    boundaries, areas = np.zeros((k, 4), dtype=np.int64), np.zeros(k, dtype=np.int64)
    is_annotated = _is_annotated(view, slide)
    tissue = store.tissue(slide.slide_id) if has_case(view, slide) else None

    def truth_of(y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        return view.mask(Tile(slide.slide_id, y, x), height, width)

    def counted(y: int, x: int, height: int, width: int) -> bool:
        if tissue is not None and tissue_pixels(tissue, y, x, height, width).any():
            return True
        return is_annotated and bool((truth_of(y, x, height, width) != IGNORE_LABEL).any())

    read = partial(store.image, slide.slide_id)
    if is_annotated or tissue is not None:
        with LabelCanvas(slide.height, slide.width) as canvas:
            for strip in strips(method, read, slide.height, slide.width, k, how, counted):
                if tissue is not None:
                    there = tissue_pixels(tissue, strip.y, strip.x, *strip.classes.shape)
                    areas += np.bincount(strip.classes[there], minlength=k)
                if is_annotated:
                    canvas.write(strip.classes, strip.y, strip.x)
                    truth = truth_of(strip.y, strip.x, *strip.classes.shape)
                    counts += confusion(truth, strip.classes, k)
                    calibration += calibration_bins(truth, strip.classes, strip.confidence)
            if is_annotated:
                boundaries = boundaries_by_blocks(truth_of, canvas, k, tolerance_px)
                if picker is not None:
                    picker.see(slide, truth_of, canvas)
    return CountedSlide(
        slide, _diagnosis(view, slide), counts, boundaries, calibration, areas, time.perf_counter() - started
    )


def boundaries_by_blocks(
    truth_of: ReadLabels, canvas: LabelCanvas, n_classes: int, tolerance_px: float, block_px: int = _BLOCK_PX
) -> NDArray[np.int64]:
    """Return ``boundary_counts`` of a whole slide, (K, 4), computed from blocks with their surroundings."""
    margin = margin_px(tolerance_px)
    total = np.zeros((n_classes, 4), dtype=np.int64)
    for y, x, height, width in blocks(canvas.height, canvas.width, block_px):
        top, left = max(0, y - margin), max(0, x - margin)
        bottom, right = min(canvas.height, y + height + margin), min(canvas.width, x + width + margin)
        seen = (top, left, bottom - top, right - left)
        truth = truth_of(*seen)
        if (truth != IGNORE_LABEL).any():
            counted = (slice(y - top, y - top + height), slice(x - left, x - left + width))
            total += boundary_counts(truth, canvas.read(*seen), n_classes, tolerance_px, counted)
    return total


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
