"""Pictures of tissue: the same tiles for all methods side by side, then the worst tiles of each.

Pictures are named by their content: slide names never become file names, and pictures shared by trials are kept once.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from tissuebench.errors import DataError
from tissuebench.results.records.overlays import OverlayTile
from tissuebench.results.report.styles import MethodStyle, plain
from tissuebench.results.report.view import View

MOST_METHODS, MOST_BUDGETS = 16, 6
_ENDS = {"JPEG": "jpg", "PNG": "png"}


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture on the page: its path, and its size in pixels."""

    path: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Prediction of one method on a tile."""

    prediction: Shot
    accuracy: str


@dataclass(frozen=True, slots=True)
class TilePictures:
    """A tile and the prediction of each method; None where a trial has no picture of it."""

    slide: str
    place: str
    image: Shot
    truth: Shot
    seen: tuple[Seen | None, ...]


@dataclass(frozen=True, slots=True)
class Tissue:
    """Tissue pictures of one budget.

    Attributes:
        methods: columns of ``tiles``.
        worst: the worst tiles of each method, each with one prediction.
        left_out: number of methods that are not shown.
    """

    budget: str
    methods: tuple[MethodStyle, ...]
    tiles: tuple[TilePictures, ...]
    worst: tuple[tuple[MethodStyle, tuple[TilePictures, ...]], ...]
    left_out: int


class Album:
    """Collection of the pictures of a page, by path."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._known: dict[Path, Shot] = {}

    def add(self, path: Path) -> Shot:
        """Add a picture; ``DataError`` if the file is not a picture."""
        if path not in self._known:
            try:
                data = path.read_bytes()
                with Image.open(io.BytesIO(data), formats=list(_ENDS)) as picture:
                    end, (width, height) = _ENDS[str(picture.format)], picture.size
            except (OSError, UnidentifiedImageError) as error:
                raise DataError(f"{path}: not a picture ({error}); delete the overlays of its trial") from error
            name = f"images/{hashlib.sha256(data).hexdigest()[:20]}.{end}"
            self.files[name] = data
            self._known[path] = Shot(name, width, height)
        return self._known[path]


def tissue(view: View, album: Album) -> list[Tissue]:
    """Collect the pictures of a subject by budget, from the first run of each cell; skips budgets without any."""
    return [one for budget, _ in view.budgets[:MOST_BUDGETS] if (one := _of_budget(view, budget, album)) is not None]


def _of_budget(view: View, budget: str, album: Album) -> Tissue | None:
    first: dict[tuple[str, str], Sequence[OverlayTile]] = {}
    for result in sorted(view.subject.results, key=lambda one: (one.replicate, one.seed, one.trial_id)):
        if tiles := view.subject.overlays.get(result.trial_id):
            first.setdefault((result.method, result.budget), tiles)
    every = [cell for cell in view.with_full(budget) if (cell.method, cell.budget) in first]
    cells = every[:MOST_METHODS]
    if not cells:
        return None
    styles = tuple(view.styles[cell.method] for cell in cells)
    of_cell = [first[cell.method, cell.budget] for cell in cells]
    chosen: dict[tuple[str, int, int], list[OverlayTile | None]] = {}
    for i, tiles in enumerate(of_cell):
        for tile in tiles:
            if tile.reason == "chosen":
                chosen.setdefault((tile.slide_id, tile.y, tile.x), [None] * len(cells))[i] = tile
    worst = tuple(
        (style, tuple(_tile([tile], album) for tile in tiles if tile.reason == "worst"))
        for style, tiles in zip(styles, of_cell, strict=True)
    )
    return Tissue(
        budget=plain(budget),
        methods=styles,
        tiles=tuple(_tile(row, album) for row in chosen.values()),
        worst=tuple(one for one in worst if one[1]),
        left_out=len(every) - len(cells),
    )


def _tile(row: Sequence[OverlayTile | None], album: Album) -> TilePictures:
    one = next(tile for tile in row if tile is not None)
    return TilePictures(
        slide=plain(one.slide_id),
        place=f"{one.width} × {one.height} px at y {one.y}, x {one.x}",
        image=album.add(one.image),
        truth=album.add(one.truth),
        seen=tuple(
            None if tile is None else Seen(album.add(tile.prediction), f"{100 * tile.accuracy:.0f} %") for tile in row
        ),
    )
