"""Prediction of whole slides from overlapping, blended windows, in memory that does not grow with the slide.

With p_w the class probabilities of window w, each pixel gets

    p = sum_w b_w p_w / sum_w b_w

over the windows that contain it, where b_w is the pixel's distance to the nearer edge of the window in y times that in
x (1 at the rim): overlapping windows fade into each other, and predictions with the least context count least.

A slide is predicted in panels, vertical parts as wide as the memory for one row of windows allows; windows across the
border of two panels are predicted for each. Within a panel, rows of windows follow each other downwards, and pixels
that no further row will touch are emitted, every pixel exactly once. A method sees images, or features of an encoder in
their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tissuebench.datasets.store.tiling import offsets
from tissuebench.evaluation.gpu_batches import PIXELS_PER_BATCH, BatchLimit
from tissuebench.methods.networks.encoded import Encoded
from tissuebench.plans.schema import EvaluationSettings, Views
from tissuebench.runtime.background import read_ahead
from tissuebench.runtime.precision import autocast

_PIXELS_PER_BATCH = PIXELS_PER_BATCH
_STRIP_PX = 1 << 20
_PANEL_NUMBERS = 1 << 24  # probabilities of a panel's row of windows: 64 MiB

ReadImage = Callable[[int, int, int, int], NDArray[np.uint8]]
"""Callable that maps (y, x, height, width) to the region (3, height, width) uint8 RGB."""


Place = tuple[int, int]
"""Upper left pixel (y, x) of a window."""

InputsT = TypeVar("InputsT", Tensor, Encoded)
SeenT = TypeVar("SeenT", contravariant=True)
GivenT = TypeVar("GivenT", covariant=True)

View = tuple[bool, tuple[int, ...]]
"""Whether the image is transposed, and which axes are flipped afterwards."""

_IDENTITY: View = (False, ())
_FLIPS: tuple[View, ...] = ((False, (-1,)), (False, (-2,)), (False, (-2, -1)))
_TURNED: tuple[View, ...] = ((True, ()), (True, (-1,)), (True, (-2,)), (True, (-2, -1)))
_VIEWS: dict[Views, tuple[View, ...]] = {
    Views.NONE: (_IDENTITY,),
    Views.FLIPS: (_IDENTITY, *_FLIPS),
    Views.DIHEDRAL: (_IDENTITY, *_FLIPS, *_TURNED),
}


class Predicts(Protocol[SeenT]):
    """Interface that stitching requires of a method."""

    def predict(self, images: SeenT) -> Tensor:
        """Return class probabilities (B, K, H, W) float32 of images (B, 3, H, W) uint8, or of their features."""
        ...


class Windows(Protocol[GivenT]):
    """Windows of one slide, as a method is to see them."""

    def views(self, places: Sequence[Place], size: tuple[int, int]) -> Iterator[GivenT]:
        """Return the views of B windows of (height, width) px, in the order of ``Stitching.views``.

        Called in a thread that reads ahead; iterated where the method predicts.
        """
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Strip:
    """A finished part of a slide. Its tensors are on the device.

    Attributes:
        y, x: upper left pixel.
        labels: (h, w) uint8, the most probable class.
        certainty: (h, w) float32, its probability.
        probabilities: (K, h, w) float32; overwritten once the next strip is requested.
        columns: where windows were predicted; elsewhere all probabilities are 0.
    """

    y: int
    x: int
    labels: Tensor
    certainty: Tensor
    probabilities: Tensor
    columns: tuple[slice, ...]

    @property
    def classes(self) -> NDArray[np.uint8]:
        """The most probable class, (h, w) uint8; on a GPU each access waits for it and copies."""
        return self.labels.cpu().numpy()

    @property
    def confidence(self) -> NDArray[np.float32]:
        """Its probability, (h, w) float32, likewise."""
        return self.certainty.cpu().numpy()

    def predicted_parts(self) -> Iterator[Strip]:
        """Return the parts in which windows were predicted, from left to right: none, several, or all in one."""
        for at in self.columns:
            part = self.labels[:, at], self.certainty[:, at], self.probabilities[:, :, at]
            yield Strip(self.y, self.x + at.start, *part, (slice(0, at.stop - at.start),))


@dataclass(frozen=True, slots=True)
class Panel:
    """Vertical part of a slide, from column ``left`` up to but excluding ``right``, and its windows row by row."""

    left: int
    right: int
    places: Sequence[Place]


@dataclass(frozen=True, slots=True)
class Stitching:
    """Prediction settings: windows of ``window_px`` that overlap by ``overlap_px``, on ``device`` in ``precision``."""

    window_px: int
    overlap_px: int
    tta: Views
    device: torch.device
    precision: str

    @classmethod
    def of(cls, settings: EvaluationSettings, tile_px: int, device: torch.device, precision: str) -> Stitching:
        """Create from evaluation settings; windows are of ``tile_px`` unless the settings give their size."""
        window_px = settings.window_px or tile_px
        overlap_px = int(settings.overlap * window_px)
        return cls(window_px, overlap_px, settings.tta, device, precision)

    def autocast(self) -> torch.autocast:
        """Return the context in which networks compute."""
        return autocast(self.device, self.precision)

    def staged(self, array: NDArray[Any]) -> Tensor:
        """Return an array as a tensor on the CPU, from which a GPU copies while the caller goes on."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def starts(self, length: int) -> list[int]:
        """Return where windows begin along an edge of ``length`` px; a shorter edge has one window, of its own size."""
        return offsets(length, self.window_px, self.window_px - self.overlap_px)

    @property
    def views(self) -> tuple[View, ...]:
        """Views of a window whose probabilities are averaged."""
        return _VIEWS[self.tta]

    def panels(self, height: int, width: int, n_classes: int) -> Iterator[Panel]:
        """Return the panels of a slide from left to right, as wide as the memory for K probabilities allows."""
        size_y, size_x = self.size(height, width)
        ys, xs = self.starts(height), self.starts(width)
        panel_px = max(size_x, _PANEL_NUMBERS // (n_classes * size_y))
        for left in range(0, width, panel_px):
            right = min(width, left + panel_px)
            yield Panel(left, right, [(y, x) for y in ys for x in xs if x < right and x + size_x > left])

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the windows of a slide."""
        return min(self.window_px, height), min(self.window_px, width)

    def work(self, height: int, width: int) -> int:
        """Return the number of pixels that pass through the network for a slide."""
        windows = len(self.starts(height)) * len(self.starts(width))
        size_y, size_x = self.size(height, width)
        return windows * size_y * size_x * len(self.views)


class ImageWindows:
    """Images of the windows of one slide.

    Args:
        read: reads a region of the image.
        how: views, device.
    """

    def __init__(self, read: ReadImage, how: Stitching) -> None:
        self._read, self._how = read, how

    def views(self, places: Sequence[Place], size: tuple[int, int]) -> Iterator[Tensor]:
        """Read B windows and return their views, each (B, 3, H, W) uint8, contiguous, on the device."""
        return self._seen(self._how.staged(np.stack([self._read(y, x, *size) for y, x in places])))

    def _seen(self, images: Tensor) -> Iterator[Tensor]:
        images = images.to(self._how.device, non_blocking=True)
        for turned, flipped in self._how.views:
            view = images.transpose(-2, -1) if turned else images
            yield (view.flip(flipped) if flipped else view).contiguous()


def batches(
    places: Sequence[Place], size: tuple[int, int], limit: BatchLimit | None = None
) -> Iterator[Sequence[Place]]:
    """Return consecutive windows that are predicted together, by default as many as on a CPU."""
    limit, start = limit or BatchLimit(torch.device("cpu"), _PIXELS_PER_BATCH), 0
    while start < len(places):
        batch = places[start : start + limit.windows(size)]
        start += len(batch)
        yield batch


def strips(
    method: Predicts[InputsT],
    windows: Windows[InputsT],
    height: int,
    width: int,
    n_classes: int,
    how: Stitching,
    wanted: Callable[[int, int, int, int], bool] = lambda y, x, height, width: True,
    limit: BatchLimit | None = None,
) -> Iterator[Strip]:
    """Predict a slide and yield disjoint strips that cover it.

    Args:
        method: the method to predict with.
        windows: windows of the slide, as the method is to see them.
        height: height of the slide in pixels.
        width: width of the slide in pixels.
        n_classes: K.
        how: windows, device, precision.
        wanted: whether a window (y, x, height, width) is predicted at all; pixels that also lie in a skipped window are
            not reliable.
        limit: size of batches, for all slides of a kind; by default that of this slide alone.
    """
    size_y, size_x = how.size(height, width)
    limit = limit or BatchLimit(how.device, _PIXELS_PER_BATCH)
    ys: list[int] = how.starts(height)
    share_y = _shares(height, size_y, ys, how.device)
    share_x = _shares(width, size_x, how.starts(width), how.device)
    for panel in how.panels(height, width, n_classes):
        left, right = panel.left, panel.right
        places = [(y, x) for y, x in panel.places if wanted(y, x, size_y, size_x)]
        predicted = _predicted(method, windows, places, (size_y, size_x), how, limit)
        rows_at_once = max(1, _STRIP_PX // (right - left))
        row = torch.zeros((n_classes, size_y, right - left), device=how.device)
        ends: dict[int, int] = {}  # by column of a window, where its last one that was predicted ends
        waiting = next(predicted, None)
        for y, below in pairwise([*ys, height]):
            while waiting is not None and waiting[0] == y:
                _, x, probabilities = waiting
                _blend_in(row, probabilities, share_y[y], share_x[x], x, left)
                ends[x] = y + size_y
                waiting = next(predicted, None)
            final = below - y
            for top in range(0, final, rows_at_once):
                columns = _columns([x for x, end in ends.items() if end > y + top], size_x, left, right)
                yield _strip(row[:, top : min(top + rows_at_once, final)], y + top, left, columns)
            if any(end > y for end in ends.values()):
                row[:, : size_y - final] = row[:, final:].clone()
                row[:, size_y - final :] = 0


def _columns(starts: Sequence[int], size: int, left: int, right: int) -> tuple[slice, ...]:
    """Return the columns of a panel that windows with these starts cover, without gaps or overlaps."""
    found: list[slice] = []
    for x in sorted(starts):
        begin, end = max(x, left) - left, min(x + size, right) - left
        if found and begin <= found[-1].stop:
            begin = found.pop().start
        found.append(slice(begin, end))
    return tuple(found)


def _shares(length: int, size: int, starts: Sequence[int], device: torch.device) -> dict[int, Tensor]:
    """Return, by window start, the weight of each pixel along one axis, (size,); weights add up to 1 over windows."""
    depth = torch.minimum(torch.arange(1, size + 1), torch.arange(size, 0, -1)).float()
    total = torch.zeros(length)
    for start in starts:
        total[start : start + size] += depth
    return {start: (depth / total[start : start + size]).to(device) for start in starts}


def _predicted(
    method: Predicts[InputsT],
    windows: Windows[InputsT],
    places: Sequence[Place],
    size: tuple[int, int],
    how: Stitching,
    limit: BatchLimit,
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (y, x, probabilities (K, h, w)) of each window, in the order given."""
    for batch, views in read_ahead(batches(places, size, limit), lambda batch: windows.views(batch, size)):
        if len(batch) < len(places):
            limit.before_batch()
        found = _within_memory(method, windows, batch, views, size, how, limit)
        if len(batch) < len(places):
            limit.after_batch(len(batch) * size[0] * size[1])
        for (y, x), probabilities in zip(batch, found, strict=True):
            yield y, x, probabilities


def _within_memory(
    method: Predicts[InputsT],
    windows: Windows[InputsT],
    batch: Sequence[Place],
    views: Iterator[InputsT],
    size: tuple[int, int],
    how: Stitching,
    limit: BatchLimit,
) -> Tensor:
    """Return the probabilities of a batch (B, K, h, w), in halves if the GPU's memory does not hold it as a whole."""
    try:
        return _probabilities(method, views, how)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Not in the handler: the error holds what the attempt has allocated.
    limit.halve(len(batch) * size[0] * size[1])
    middle = len(batch) // 2
    halves = [
        _within_memory(method, windows, half, windows.views(half, size), size, how, limit)
        for half in (batch[:middle], batch[middle:])
    ]
    return torch.cat(halves)


@torch.inference_mode()
def _probabilities(method: Predicts[InputsT], views: Iterator[InputsT], how: Stitching) -> Tensor:
    """Return (B, K, h, w) float32, the mean over the views that the settings request."""
    total: Tensor | None = None
    with how.autocast():
        for inputs, (turned, flipped) in zip(views, how.views, strict=True):
            seen = method.predict(inputs).float()
            seen = seen.flip(flipped) if flipped else seen
            seen = seen.transpose(-2, -1) if turned else seen
            total = seen if total is None else total + seen
    if total is None:
        raise ValueError("no views")
    return total / len(how.views)


@torch.inference_mode()
def _blend_in(row: Tensor, probabilities: Tensor, share_y: Tensor, share_x: Tensor, x: int, left: int) -> None:
    """Add the part of a window at column ``x`` that lies in the panel starting at ``left``."""
    begin, end = max(x, left), min(x + len(share_x), left + row.shape[2])
    part = slice(begin - x, end - x)
    weighted = probabilities[:, :, part] * share_y[:, None] * share_x[part]
    row[:, :, begin - left : end - left] += weighted


@torch.inference_mode()
def _strip(row: Tensor, y: int, x: int, columns: tuple[slice, ...]) -> Strip:
    _, height, width = row.shape
    if columns == (slice(0, width),):
        confidence, classes = row.max(dim=0)
        return Strip(y, x, classes.to(torch.uint8), confidence.clamp(0, 1), row, columns)
    labels = torch.zeros((), dtype=torch.uint8, device=row.device).expand(height, width)
    certainty = torch.zeros((), device=row.device).expand(height, width)
    if columns:
        labels, certainty = labels.contiguous(), certainty.contiguous()
    for at in columns:
        confidence, classes = row[:, :, at].max(dim=0)
        labels[:, at], certainty[:, at] = classes, confidence.clamp(0, 1)
    return Strip(y, x, labels, certainty, row, columns)
