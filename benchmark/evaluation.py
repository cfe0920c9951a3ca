"""Slide-wise evaluation: windows on a canvas, every annotated pixel counted exactly once, counts a slide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from tissuebench.boundaries import boundary_counts
from tissuebench.config import EvaluationSettings
from tissuebench.datasets.store import SlideInfo, TileStore
from tissuebench.datasets.tiling import offsets
from tissuebench.datasets.types import IGNORE_LABEL, Tile
from tissuebench.datasets.views import LabelView
from tissuebench.methods.base import Method
from tissuebench.world import ALONE, World, sum_over_processes

_PIXELS_PER_BATCH = 1 << 19


@dataclass(frozen=True, slots=True)
class SlideCounts:
    """What one slide counts, annotated pixels only.

    Attributes:
        counts: ``counts[truth, predicted]``, (K, K) int64.
        boundaries: (K, 4) int64, see ``boundary_counts``.
    """

    slide: SlideInfo
    diagnosis: tuple[str, ...]
    counts: NDArray[np.int64]
    boundaries: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Window:
    """A window and the part of it that goes onto the canvas; all in pixels of the slide."""

    y: int
    x: int
    top: int
    bottom: int
    left: int
    right: int


def windows(height: int, width: int, window_px: int, overlap_px: int) -> list[Window]:
    """Windows that cover a slide; their kept parts are disjoint and cover it exactly.

    The overlap of two neighbours is cut in its middle, so that each pixel comes from the window it lies deeper in.
    """

    def spans(length: int) -> list[tuple[int, int, int]]:
        starts = offsets(length, window_px, window_px - overlap_px)
        cuts = [0, *((a + window_px + b) // 2 for a, b in pairwise(starts)), length]
        return [(start, cuts[i], cuts[i + 1]) for i, start in enumerate(starts)]

    return [
        Window(y, x, top, bottom, left, right) for y, top, bottom in spans(height) for x, left, right in spans(width)
    ]


def evaluate(
    method: Method,
    store: TileStore,
    view: LabelView,
    settings: EvaluationSettings,
    device: torch.device,
    precision: str,
    world: World = ALONE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[SlideCounts]:
    """Predict every slide of ``view`` and count, in the order of the view.

    With several processes each predicts its share and has the counts of all; no slide is predicted twice.

    Args:
        method: what predicts.
        store: its input.
        view: the slides, and the masks to compare with.
        settings: windows.
        device: to predict on.
        precision: of the prediction, in Lightning's spelling.
        world: the processes; by default this one alone.
        progress: told how many slides of this process's share are done, and how many it has.
    """
    method.eval()
    n_classes = len(view.class_map)
    mine = shares([slide.height * slide.width for slide in view.slides], world.size)[world.rank]
    counts = np.zeros((len(view.slides), n_classes, n_classes + 4), dtype=np.int64)  # confusion, then boundaries
    tolerance_px = settings.boundary_um / (store.info.mpp or 1.0)
    for done, index in enumerate(mine, start=1):
        slide = view.slides[index]
        predicted = predict_slide(method, store, slide, settings, device, precision)
        truth = view.mask(Tile(slide.slide_id, 0, 0), slide.height, slide.width)
        counts[index, :, :n_classes] = confusion(truth, predicted, n_classes)
        counts[index, :, n_classes:] = boundary_counts(truth, predicted, n_classes, tolerance_px)
        progress(done, len(mine))
    everywhere = sum_over_processes(torch.from_numpy(counts)).numpy()
    return [
        SlideCounts(slide, view.diagnosis(slide.slide_id), found[:, :n_classes], found[:, n_classes:])
        for slide, found in zip(view.slides, everywhere, strict=True)
    ]


def shares(costs: Sequence[int], n: int) -> list[list[int]]:
    """Indices of ``costs`` in ``n`` shares of about the same sum: the dearest first, each to the cheapest share."""
    dealt: list[list[int]] = [[] for _ in range(n)]
    sums = [0] * n
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        cheapest = sums.index(min(sums))
        dealt[cheapest].append(index)
        sums[cheapest] += costs[index]
    return [sorted(share) for share in dealt]


@torch.inference_mode()
def predict_slide(
    method: Method,
    store: TileStore,
    slide: SlideInfo,
    settings: EvaluationSettings,
    device: torch.device,
    precision: str,
) -> NDArray[np.uint8]:
    """Class ids of a whole slide, (H, W) uint8."""
    canvas = np.full((slide.height, slide.width), IGNORE_LABEL, dtype=np.uint8)
    window_px = settings.window_px or store.info.tile_px
    # A slide smaller than the window is one window of its own size: no padding is predicted.
    size_y, size_x = min(window_px, slide.height), min(window_px, slide.width)
    placed = windows(slide.height, slide.width, window_px, int(settings.overlap * window_px))
    per_batch = max(1, _PIXELS_PER_BATCH // (size_y * size_x))
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")
    for start in range(0, len(placed), per_batch):
        batch = placed[start : start + per_batch]
        images = np.stack([store.image(slide.slide_id, w.y, w.x, size_y, size_x) for w in batch])
        with autocast:
            probabilities = method.predict(torch.from_numpy(images).to(device))
        classes = probabilities.max(dim=1).indices.to(torch.uint8).cpu().numpy()
        for window, predicted in zip(batch, classes, strict=True):
            rows = slice(window.top - window.y, window.bottom - window.y)
            columns = slice(window.left - window.x, window.right - window.x)
            canvas[window.top : window.bottom, window.left : window.right] = predicted[rows, columns]
    return canvas


def confusion(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], n_classes: int) -> NDArray[np.int64]:
    """``counts[truth, predicted]`` over annotated pixels, (K, K) int64."""
    annotated = truth != IGNORE_LABEL
    pairs = truth[annotated].astype(np.int64) * n_classes + predicted[annotated]
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)
