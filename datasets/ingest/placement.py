"""Check that the labels of a slide lie on its tissue, and the estimate of the shift if they do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.store.shards import Pixels
from tissuebench.datasets.store.tile_store import TISSUE_DOWNSAMPLE
from tissuebench.datasets.types import IGNORE_LABEL

_MIN_BLOCKS = 16
"""Fewer annotated blocks say nothing; 16 are an area of 64 x 64 px."""
_MOSTLY, _HARDLY = 0.5, 0.25
_CLEARLY = 0.8
_COVERS_ALL = 0.9
"""Labels of so much of a slide are on and off the tissue wherever they lie."""
_GRID = 512
_NEARLY_BEST = 0.98
_GLASS = ("glass", "background", "white", "empty")


@dataclass(frozen=True, slots=True)
class Placed:
    """Position of a slide's labels against its tissue.

    Attributes:
        on_tissue: share of the annotated blocks on tissue, 0..1, of the class that lies on it most.
        shift: (y, x) in pixels of the raster by which the labels would lie on tissue; None if no shift clearly would.
    """

    on_tissue: float
    shift: tuple[int, int] | None

    @property
    def is_plausible(self) -> bool:
        """Whether at least one class lies mostly on tissue."""
        return self.on_tissue >= _MOSTLY

    @property
    def is_hardly_on_tissue(self) -> bool:
        """Whether so little lies on tissue that even loose tissue, such as fat or lung, is no explanation."""
        return self.on_tissue < _HARDLY


class LabelSample:
    """Label at the centre of each block of 16 x 16 pixels, collected while a slide is written block by block.

    Args:
        height: height of the raster in pixels.
        width: width of the raster.
    """

    def __init__(self, height: int, width: int) -> None:
        shape = (-(-height // TISSUE_DOWNSAMPLE), -(-width // TISSUE_DOWNSAMPLE))
        self._labels: Pixels = np.full(shape, IGNORE_LABEL, np.uint8)

    def add(self, raster: Pixels, y: int, x: int) -> None:
        """Add the labels of a block, (h, w) uint8; ``y`` and ``x`` are multiples of 16."""
        rows, columns = (
            np.minimum(np.arange(0, side, TISSUE_DOWNSAMPLE) + TISSUE_DOWNSAMPLE // 2, side - 1)
            for side in raster.shape
        )
        top, left = y // TISSUE_DOWNSAMPLE, x // TISSUE_DOWNSAMPLE
        self._labels[top : top + len(rows), left : left + len(columns)] = raster[np.ix_(rows, columns)]

    def placed(self, tissue: Pixels, class_names: tuple[str, ...], glass: str | None = None) -> Placed | None:
        """Compare the sample with the tissue.

        Args:
            tissue: (h, w) uint8 of 0 and 1, a pixel for each block.
            class_names: the class map's names; a class called glass, background, white or empty belongs off the tissue.
            glass: another such class.

        Returns:
            None if nothing can be said: too little is annotated, nearly everything is, or only glass.
        """
        off = [number for number, name in enumerate(class_names) if name == glass or name.casefold() in _GLASS]
        counted = (self._labels != IGNORE_LABEL) & ~np.isin(self._labels, off)
        everything = float((self._labels != IGNORE_LABEL).mean())
        if everything > _COVERS_ALL:
            return None
        shares = []
        for class_id in np.unique(self._labels[counted]).tolist():
            here = self._labels == class_id
            if here.sum() >= _MIN_BLOCKS:
                shares.append(float(tissue[here].mean()))
        if not shares:
            return None
        best = max(shares)
        return Placed(best, None if best >= _MOSTLY else _best_shift(counted, tissue > 0))

    def share_on_tissue(self, tissue: Pixels, shift: tuple[int, int]) -> float:
        """Return the share of all annotated blocks that would be on tissue if shifted by (y, x) raster pixels."""
        at = np.argwhere(self._labels != IGNORE_LABEL) + np.round(np.array(shift) / TISSUE_DOWNSAMPLE).astype(np.int64)
        inside = at[((at >= 0) & (at < tissue.shape)).all(axis=1)]
        return float(tissue[inside[:, 0], inside[:, 1]].sum()) / max(1, len(at))


def _best_shift(labels: NDArray[np.bool_], tissue: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Return the shift in raster pixels that puts most labels on tissue, by cross-correlation on a coarse grid.

    Of those that are nearly as good as the best, the smallest is taken.
    """
    step = -(-max(labels.shape) // _GRID)
    small_labels, small_tissue = (_coarse(mask, step) for mask in (labels, tissue))
    shape = tuple(2 * side for side in small_labels.shape)  # padded, so that nothing wraps around
    spectrum = np.conj(np.fft.rfft2(small_labels, shape)) * np.fft.rfft2(small_tissue, shape)
    overlap = np.fft.irfft2(spectrum, shape)
    if overlap.max() < _CLEARLY * small_labels.sum():
        return None
    good = np.argwhere(overlap >= _NEARLY_BEST * overlap.max())
    good -= np.where(good >= np.array(shape) // 2, shape, 0)  # the upper half of the range are negative shifts
    y, x = (good[np.square(good).sum(axis=1).argmin()] * step * TISSUE_DOWNSAMPLE).tolist()
    return y, x


def _coarse(mask: NDArray[np.bool_], step: int) -> NDArray[np.float64]:
    """Return the means of ``step`` x ``step`` blocks."""
    padded = np.pad(mask, [(0, -side % step) for side in mask.shape])
    rows, columns = padded.shape[0] // step, padded.shape[1] // step
    means: NDArray[np.float64] = padded.reshape(rows, step, columns, step).mean(axis=(1, 3))
    return means
