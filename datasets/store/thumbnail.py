"""Thumbnails for visual checks: the slide with its detected tissue, and with its annotation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tissuebench.datasets.store.shards import Pixels, ShardCache, read_into, read_layout
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap

_MAX_PX = 640
_TISSUE_OUTLINE = (0, 150, 60)
_LABEL_WEIGHT = 0.5
_GAP_PX = 8


def write_thumbnail(folder: Path, slide_id: str, tissue: Pixels, class_map: ClassMap) -> None:
    """Write ``thumbnails/<slide_id>.jpg``: the slide with its tissue outlined (left) and with its annotation (right).

    Args:
        folder: folder of the store; it already contains the slide.
        slide_id: the slide.
        tissue: (h, w) uint8 of 0 and 1.
        class_map: colours of the classes.
    """
    slide = folder / "slides" / slide_id
    levels = sorted(int(path.name) for path in slide.iterdir() if path.name.isdigit())
    fitting = [level for level in levels if max(read_layout(slide / str(level)).shape[-2:]) <= 2 * _MAX_PX]
    level = str(fitting[0] if fitting else levels[-1])
    cyx, labels = _whole(slide / level), _whole(slide / "labels" / "annotation" / level)
    image = Image.fromarray(np.ascontiguousarray(cyx.transpose(1, 2, 0)))
    image.thumbnail((_MAX_PX, _MAX_PX), Image.Resampling.BOX)
    size = image.size
    picture = np.asarray(image)
    mask = np.asarray(Image.fromarray(tissue).resize(size, Image.Resampling.NEAREST)).astype(bool)
    classes = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    sheet = np.full((size[1], 2 * size[0] + _GAP_PX, 3), 255, np.uint8)
    sheet[:, : size[0]] = np.where(_outline(mask)[..., None], np.array(_TISSUE_OUTLINE, np.uint8), picture)
    palette = np.full((256, 3), 255, np.float32)
    palette[: len(class_map)] = class_map.colors
    mixed = (1 - _LABEL_WEIGHT) * picture + _LABEL_WEIGHT * palette[classes]
    sheet[:, size[0] + _GAP_PX :] = np.where((classes == IGNORE_LABEL)[..., None], picture, mixed)
    path = folder / "thumbnails" / f"{slide_id}.jpg"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(sheet).save(path, quality=85)


def _whole(array: Path) -> Pixels:
    out: Pixels = np.empty(read_layout(array).shape, np.uint8)
    read_into(out, ShardCache(), str(array), 0, 0)
    return out


def _outline(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return the outer rim of a mask, two pixels wide."""
    inner = mask.copy()
    for _ in range(2):
        kept = np.pad(inner, 1)
        inner = kept[1:-1, 1:-1] & kept[:-2, 1:-1] & kept[2:, 1:-1] & kept[1:-1, :-2] & kept[1:-1, 2:]
    return mask & ~inner
