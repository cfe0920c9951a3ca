"""Prediction overlays saved by a trial: tiles of the test part and their predictions.

A trial's folder holds the predictions and an index; the image and truth of a tile are the same for all trials of a
store and are kept once, in ``runs/pictures``. All file names are hashes: slide names appear in the index only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tissuebench.common.files import write_aside
from tissuebench.common.hashing import content_hash
from tissuebench.errors import DataError
from tissuebench.results.records.trial_result import check_trial_id

FOLDER, INDEX = "overlays", "index.json"
_NAME_LENGTH = 20


@dataclass(frozen=True, slots=True)
class OverlayTile:
    """One tile of a test slide: its image, truth and prediction.

    Attributes:
        slide_id, y, x, height, width: position and size, in pixels of the store.
        reason: ``chosen`` by a hash, the same for all trials of a store, or one of the three ``worst`` of its trial.
        accuracy: share of its annotated pixels that are correct.
        image: JPEG.
        truth, prediction: palette PNG: pixel values are class ids, 255 where nothing is annotated or predicted; the
            palette contains the class colours.
    """

    slide_id: str
    y: int
    x: int
    height: int
    width: int
    reason: Literal["chosen", "worst"]
    accuracy: float
    image: Path
    truth: Path
    prediction: Path


def tile_name(store_sha256: str, slide_id: str, y: int, x: int) -> str:
    """Return the file name of a tile of a store."""
    return content_hash([store_sha256, slide_id, y, x])[:_NAME_LENGTH]


def pictures_folder(home: Path) -> Path:
    """Return the folder of tile images and truths, shared by all trials."""
    return home / "runs" / "pictures"


def overlays_folder(home: Path, trial_id: str) -> Path:
    """Return the folder of a trial's predictions and index; ``DataError`` if the id is malformed."""
    return home / "runs" / "trials" / check_trial_id(trial_id) / FOLDER


def write_index(home: Path, trial_id: str, tiles: list[OverlayTile]) -> None:
    """Write the index; must come last, as a trial without one has no overlays."""
    rows = []
    for tile in tiles:
        row = asdict(tile)
        for kind in ("image", "truth", "prediction"):
            row[kind] = row[kind].relative_to(home / "runs").as_posix()
        rows.append(row)
    write_aside(overlays_folder(home, trial_id) / INDEX, json.dumps(rows, indent=1).encode())


def read_overlays(home: Path, trial_id: str) -> list[OverlayTile]:
    """Return the tiles of a trial whose pictures all exist, chosen ones first; empty if it never wrote any.

    Raises:
        DataError: the index is damaged.
    """
    path = overlays_folder(home, trial_id) / INDEX
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_bytes())
        if any(".." in Path(row[kind]).parts for row in rows for kind in ("image", "truth", "prediction")):
            raise ValueError("it names files elsewhere")
        tiles = [
            OverlayTile(**{**row, **{kind: home / "runs" / row[kind] for kind in ("image", "truth", "prediction")}})
            for row in rows
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not a usable index ({error}); delete it") from error
    return [tile for tile in tiles if all(p.is_file() for p in (tile.image, tile.truth, tile.prediction))]
