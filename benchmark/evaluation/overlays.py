"""Tiles kept as pictures of each trial: a fixed choice by hash, and the tiles with the lowest accuracy."""

from __future__ import annotations

import heapq
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tissuebench.common.files import write_aside
from tissuebench.datasets.store.tile_store import SlideInfo, TileStore
from tissuebench.datasets.store.tiling import origins
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.evaluation.canvas import LabelCanvas
from tissuebench.results.records.overlays import OverlayTile, overlays_folder, pictures_folder, tile_name, write_index
from tissuebench.runtime.processes import gathered

N_CHOSEN, N_WORST = 6, 3
_EDGE_PX = 256
_MIN_ANNOTATED = 0.5
_JPEG_QUALITY = 90

ReadLabels = Callable[[int, int, int, int], NDArray[np.uint8]]
"""Callable that maps (y, x, height, width) to class ids."""


@dataclass(frozen=True, eq=False, slots=True)
class SeenTile:
    """A candidate tile: its position, the share of correct pixels, and its truth and prediction, (h, w) uint8."""

    name: str
    slide_id: str
    y: int
    x: int
    accuracy: float
    truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


class TilePicker:
    """Picks tiles while slides are scored: ``N_CHOSEN`` of the smallest hash and ``N_WORST`` of the lowest accuracy.

    A tile qualifies if at least half of its pixels are annotated. The fixed choice depends on the store, never on a
    prediction.
    """

    def __init__(self, store: TileStore) -> None:
        self._store = store
        self._edge = max(_EDGE_PX, store.info.tile_px)
        self.chosen: list[SeenTile] = []
        self.worst: list[SeenTile] = []

    def see(self, slide: SlideInfo, truth_of: ReadLabels, canvas: LabelCanvas) -> None:
        """Consider the tiles of a predicted slide."""
        height, width = min(self._edge, slide.height), min(self._edge, slide.width)
        for y, x in origins(slide.height, slide.width, self._edge).tolist():
            truth = truth_of(y, x, height, width)
            annotated = truth != IGNORE_LABEL
            if annotated.mean() < _MIN_ANNOTATED:
                continue
            prediction = canvas.read(y, x, height, width)
            accuracy = float((truth == prediction)[annotated].mean())
            name = tile_name(self._store.content_hash, slide.slide_id, y, x)
            self.take([SeenTile(name, slide.slide_id, y, x, accuracy, truth, prediction)])

    def take(self, tiles: Iterable[SeenTile]) -> None:
        """Consider further tiles, including those of another process."""
        for tile in tiles:
            known = {one.name: one for one in (*self.chosen, tile)}
            self.chosen = heapq.nsmallest(N_CHOSEN, known.values(), key=lambda one: one.name)
            known = {one.name: one for one in (*self.worst, tile)}
            self.worst = heapq.nsmallest(N_WORST, known.values(), key=lambda one: (one.accuracy, one.name))

    def join(self) -> None:
        """Consider the tiles seen by the other processes of the trial; every process must call this."""
        for tiles in gathered([*self.chosen, *self.worst]):
            self.take(tiles)

    def write(self, home: Path, trial_id: str) -> None:
        """Write the pictures of the tiles, then the index."""
        rows: list[OverlayTile] = []
        reasons: tuple[tuple[Literal["chosen", "worst"], list[SeenTile]], ...] = (
            ("chosen", self.chosen),
            ("worst", self.worst),
        )
        for reason, tiles in reasons:
            for tile in tiles:
                height, width = tile.truth.shape
                image, truth = (pictures_folder(home) / f"{tile.name}{end}" for end in (".jpg", ".png"))
                if not image.is_file():
                    pixels = self._store.image(tile.slide_id, tile.y, tile.x, height, width)
                    write_aside(image, _jpeg(pixels))
                if not truth.is_file():
                    write_aside(truth, self._palette_png(tile.truth))
                prediction = overlays_folder(home, trial_id) / f"{tile.name}.png"
                write_aside(prediction, self._palette_png(tile.prediction))
                rows.append(
                    OverlayTile(
                        tile.slide_id, tile.y, tile.x, height, width, reason, tile.accuracy, image, truth, prediction
                    )
                )
        write_index(home, trial_id, rows)

    def _palette_png(self, labels: NDArray[np.uint8]) -> bytes:
        picture = Image.fromarray(labels).convert("L")
        colours = [part for colour in self._store.class_map.colors for part in colour]
        picture.putpalette(colours + [255] * (768 - len(colours)))
        out = io.BytesIO()
        picture.save(out, "PNG", optimize=True)
        return out.getvalue()


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(out, "JPEG", quality=_JPEG_QUALITY)
    return out.getvalue()
