"""Slide-wise evaluation: every annotated pixel, and every pixel of a case's tissue, is counted exactly once.

Masks are compared on the annotated pixels of annotated slides. Cases need no mask: of each slide with one diagnosis all
tissue is predicted, annotated or not, and the area of each class is counted. A window that serves both is predicted
once. Slides are processed one by one, in bounded memory: while one is predicted, boundaries and objects of the one
before it are counted in a thread, so that labels of two slides are held at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

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
from tissuebench.evaluation.gpu_batches import BatchLimit
from tissuebench.evaluation.gpu_counts import CanvasWriter
from tissuebench.evaluation.objects import class_object_sums
from tissuebench.evaluation.overlays import ReadLabels, TilePicker
from tissuebench.evaluation.slide_counts import Counts, SlideCounts
from tissuebench.evaluation.stitching import ImageWindows, Stitching, Strip, strips
from tissuebench.evaluation.window_features import WindowFeatures
from tissuebench.methods.api.method import Method
from tissuebench.plans.schema import EvaluationSettings
from tissuebench.results.records.object_metrics import SUMS
from tissuebench.results.records.object_sums import ObjectSums
from tissuebench.runtime.background import Background
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
        seconds: time spent on the slide by the thread that predicts, and by the one that then counts boundaries and
            objects while the next slide is predicted: the sum over slides may exceed the time of the evaluation.
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
        progress: called with the number of slides predicted and the number of slides in this process's share.
        picker: receives the slides of this process's share.
        features: features that stand in for the images.
    """
    method.eval()
    with SlideScorer(store, view, settings, device, precision, world, picker, features=features) as scorer:
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


@dataclass(frozen=True, eq=False, slots=True)
class _Finished:
    """Counts of a slide that need the labels of all of it, and the seconds that they took; see ``CountedSlide``."""

    index: int
    boundaries: NDArray[np.int64]
    objects: NDArray[np.float64]
    seconds: float


class SlideScorer(AbstractContextManager["SlideScorer"]):
    """Predicts slides of a view, each process its share, and counts; a context manager that ends its thread.

    With ``masks_only`` there is no thread, and no block is needed.

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
        self._counts = SlideCounts(len(view.slides), len(view.class_map), device)
        self._limit = BatchLimit(device)
        self._background = Background[_Finished]()
        self.mine = shares([self._cost(slide) for slide in view.slides], world.size)[world.rank]

    def total(self) -> Counts:
        """Return the counts over all processes; every process must call this."""
        self._add(self._background.wait())
        return self._counts.total()

    def pooled_scores(self) -> dict[str, float]:
        """Return the scores of ``Counts.pooled_scores`` and start anew; every process must call this."""
        self._counts.update(0)  # torchmetrics warns about a process that has no slide
        scores = self._counts.compute()
        self._counts.reset()
        return {name: float(score) for name, score in scores.items()}

    def score(self, method: Method[Any], index: int) -> None:
        """Predict the annotated regions of one slide and the tissue of a case, and count.

        What needs the labels of the whole slide is counted in a thread, and there by the end of ``total``.
        """
        started = time.perf_counter()
        slide = self._view.slides[index]
        area = CountedArea(self._store, self._view, slide, self._masks_only)
        with ExitStack() as until_counted:
            canvas = None
            if area.is_annotated and not self._masks_only:
                canvas = until_counted.enter_context(LabelCanvas(slide.height, slide.width))
            if not area.is_empty:
                self._predict(method, index, area, canvas)
            self._counts.update(index, seconds=time.perf_counter() - started)
            if canvas is not None:
                self._add(self._background.wait())  # at most two canvases at a time
                self._background.start(partial(self._finish, index, area, canvas, until_counted.pop_all()))

    def _predict(self, method: Method[Any], index: int, area: CountedArea, canvas: LabelCanvas | None) -> None:
        """Predict a slide, count its pixels, and write the labels of its annotated parts."""
        writer = None if canvas is None else CanvasWriter(canvas)
        for strip in self._strips(method, self._view.slides[index], area):
            for part in strip.predicted_parts():
                at = (part.y, part.x, *part.labels.shape)
                truth = area.truth(*at) if area.is_annotated else None
                tissue = None if area.tissue is None else tissue_pixels(area.tissue, *at)
                self._counts.count(index, part, truth, tissue, with_log_loss=self._masks_only)
                if writer is not None:
                    writer.write(part.labels, part.y, part.x)
        if writer is not None:
            writer.finish()

    def _finish(self, index: int, area: CountedArea, canvas: LabelCanvas, until_counted: ExitStack) -> _Finished:
        """Count what needs the labels of a whole slide; runs in a thread."""
        started = time.perf_counter()
        slide, k = self._view.slides[index], len(self._view.class_map)
        with until_counted:
            boundaries = boundaries_by_blocks(area.truth, canvas, k, self._tolerance_px)
            objects = np.zeros((k, len(SUMS)))
            if self._objects:  # small enough for memory: ``check_objects``
                whole = (0, 0, slide.height, slide.width)
                maps = area.truth(*whole), canvas.read(*whole)
                objects = class_object_sums(*maps, self._objects, k, self._um_per_px)
            if self._picker is not None:
                self._picker.see(slide, area.truth, canvas)
        return _Finished(index, boundaries, objects, time.perf_counter() - started)

    def _add(self, finished: _Finished | None) -> None:
        if finished is not None:
            self._counts.update(
                finished.index,
                boundaries=finished.boundaries,
                objects=finished.objects,
                seconds=finished.seconds,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._background.__exit__(kind, error, trace)

    def __enter__(self) -> Self:
        return self

    def _strips(self, method: Method[Any], slide: SlideInfo, area: CountedArea) -> Iterator[Strip]:
        size, k = (slide.height, slide.width), len(self._view.class_map)
        if self._features is not None:
            encoded = self._features.of(slide.slide_id)
            return strips(method, encoded, *size, k, self._how, encoded.has, self._limit)
        images = ImageWindows(partial(self._store.image, slide.slide_id), self._how)
        return strips(method, images, *size, k, self._how, area.has, self._limit)

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
