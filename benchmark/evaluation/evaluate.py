"""Slide-wise evaluation: every annotated pixel, and every pixel of a case's tissue, is counted exactly once.

Masks are compared on the annotated pixels of annotated slides. Cases need no mask: of each slide with one diagnosis all
tissue is predicted, annotated or not, and the area of each class is counted. A window that serves both is predicted
once. Slides are processed one by one, in bounded memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.evaluation.boundaries import boundary_counts, margin_px
from tissuebench.evaluation.canvas import LabelCanvas
from tissuebench.evaluation.counted import CountedArea, diagnosis_of, has_case, is_annotated
from tissuebench.evaluation.objects import class_object_sums
from tissuebench.evaluation.overlays import ReadLabels, TilePicker
from tissuebench.evaluation.slide_counts import Counts, SlideCounts, summed_log_loss
from tissuebench.evaluation.stitching import ImageWindows, Stitching, Strip, strips
from tissuebench.evaluation.window_features import WindowFeatures
from tissuebench.methods.api.method import Method
from tissuebench.plans.schema import EvaluationSettings
from tissuebench.results.records.object_sums import ObjectSums
from tissuebench.runtime.processes import ALONE, World

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
        objects: (K, ``len(SUMS)``) float64, see ``class_object_sums``; 0 for classes that are not in the settings.
        seconds: time taken.
    """

    slide: SlideInfo
    diagnosis: tuple[str, ...]
    counts: NDArray[np.int64]
    boundaries: NDArray[np.int64]
    calibration: NDArray[np.float64]
    areas: NDArray[np.int64]
    objects: NDArray[np.float64]
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
    features: WindowFeatures | None = None,
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
        features: features that stand in for the images.
    """
    method.eval()
    scorer = SlideScorer(store, view, settings, device, precision, world, picker, features=features)
    for done, index in enumerate(scorer.mine, start=1):
        scorer.score(method, index)
        progress(done, len(scorer.mine))
    counts = scorer.total()
    return [
        CountedSlide(
            slide,
            diagnosis_of(view, slide),
            counts=counts.confusion[row],
            boundaries=counts.boundaries[row],
            calibration=counts.calibration[row],
            areas=counts.areas[row],
            objects=counts.objects[row],
            seconds=float(counts.seconds[row]),
        )
        for row, slide in enumerate(view.slides)
    ]


def stored_objects(slides: Sequence[CountedSlide], store: TileStore, settings: EvaluationSettings) -> ObjectSums | None:
    """Return the sums over objects as a result stores them; None if no class of the store consists of objects."""
    classes = settings.objects_of(store.class_map.names)
    if not classes:
        return None
    rows = [store.class_map.names.index(name) for name in classes]
    unit = "px" if store.info.mpp is None else "um"
    return ObjectSums(classes, unit, np.stack([slide.objects[rows] for slide in slides]))


class SlideScorer:
    """Predicts slides of a view, each process its share, and counts.

    Args:
        store, view, settings, device, precision, world, picker, features: see ``evaluate``.
        masks_only: predict annotated regions only, and count neither areas of cases nor boundaries but the log-loss.

    Attributes:
        mine: indices of the slides of this process's share.
    """

    def __init__(
        self,
        store: TileStore,
        view: LabelView,
        settings: EvaluationSettings,
        device: torch.device,
        precision: str,
        world: World = ALONE,
        picker: TilePicker | None = None,
        masks_only: bool = False,
        features: WindowFeatures | None = None,
    ) -> None:
        self._store, self._view, self._picker, self._masks_only = store.frugal(), view, picker, masks_only
        self._features = features
        self._how = Stitching.of(settings, store.info.tile_px, device, precision)
        self._um_per_px = store.info.mpp or 1.0
        self._tolerance_px = settings.boundary_um / self._um_per_px
        self._objects = [view.class_map.names.index(name) for name in settings.objects_of(view.class_map.names)]
        self._counts = SlideCounts(len(view.slides), len(view.class_map))
        self.mine = shares([self._cost(slide) for slide in view.slides], world.size)[world.rank]

    def total(self) -> Counts:
        """Return the counts over all processes; every process must call this."""
        return self._counts.total()

    def pooled_scores(self) -> dict[str, float]:
        """Return the scores of ``Counts.pooled_scores`` and start anew; every process must call this."""
        self._counts.update(0)  # torchmetrics warns about a process that has no slide
        scores = self._counts.compute()
        self._counts.reset()
        return {name: float(score) for name, score in scores.items()}

    def score(self, method: Method[Any], index: int) -> None:
        """Predict the annotated regions of one slide and the tissue of a case, and count."""
        started = time.perf_counter()
        view, slide, counts = self._view, self._view.slides[index], self._counts
        k = len(view.class_map)
        area = CountedArea(self._store, view, slide, self._masks_only)
        tissue, truth_of = area.tissue, area.truth
        if not area.is_empty:
            with LabelCanvas(slide.height, slide.width) as canvas:
                for strip in self._strips(method, slide, area):
                    if tissue is not None:
                        there = tissue_pixels(tissue, strip.y, strip.x, *strip.classes.shape)
                        counts.update(index, areas=np.bincount(strip.classes[there], minlength=k))
                    if area.is_annotated:
                        truth = truth_of(strip.y, strip.x, *strip.classes.shape)
                        counts.compare(index, truth, strip.classes, strip.confidence)
                        if self._masks_only:
                            counts.update(index, log_loss=summed_log_loss(truth, strip.probabilities))
                        else:
                            canvas.write(strip.classes, strip.y, strip.x)
                if area.is_annotated and not self._masks_only:
                    counts.update(index, boundaries=boundaries_by_blocks(truth_of, canvas, k, self._tolerance_px))
                    if self._objects:  # small enough for memory: ``check_objects``
                        whole = (0, 0, slide.height, slide.width)
                        maps = truth_of(*whole), canvas.read(*whole)
                        counts.update(index, objects=class_object_sums(*maps, self._objects, k, self._um_per_px))
                    if self._picker is not None:
                        self._picker.see(slide, truth_of, canvas)
        counts.update(index, seconds=time.perf_counter() - started)

    def _strips(self, method: Method[Any], slide: SlideInfo, area: CountedArea) -> Iterator[Strip]:
        size, k = (slide.height, slide.width), len(self._view.class_map)
        if self._features is not None:
            encoded = self._features.of(slide.slide_id)
            return strips(method, encoded, *size, k, self._how, encoded.has)
        images = ImageWindows(partial(self._store.image, slide.slide_id), self._how)
        return strips(method, images, *size, k, self._how, area.has)

    def _cost(self, slide: SlideInfo) -> int:
        """Pixels of a slide of which anything is predicted."""
        is_case = not self._masks_only and has_case(self._view, slide)
        return slide.height * slide.width if is_case or is_annotated(self._view, slide) else 0


def shares(costs: Sequence[int], n: int) -> list[list[int]]:
    """Split the indices of ``costs`` into ``n`` shares of similar sum: largest first, each to the cheapest share."""
    dealt: list[list[int]] = [[] for _ in range(n)]
    sums = [0] * n
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        cheapest = sums.index(min(sums))
        dealt[cheapest].append(index)
        sums[cheapest] += costs[index]
    return [sorted(share) for share in dealt]


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
