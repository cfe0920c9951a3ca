"""Files next to slides that are none by their name: labels, thumbnails, masks, hidden files."""

from __future__ import annotations

import re
from pathlib import Path

_HIDDEN = (".", "~$")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".dcm")
_PHOTOGRAPHS = (
    "label", "slidelabel", "thumbnail", "thumb", "thumbs", "preview", "macro", "overview", "icon", "overlay", "heatmap",
)  # fmt: skip
_MASKS = (
    "labels", "labelmap", "mask", "masks", "annotation", "annotations", "anno", "seg", "segmentation", "groundtruth",
    "gt", "prediction", "predictions",
)  # fmt: skip


def _ending(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?:.*[\s_.-])?(?:{'|'.join(words)})(?:[\s_.-]*(?:ds|x|v)?\d+)?")


_ACCESSORY, _MASK = _ending(_PHOTOGRAPHS + _MASKS), _ending(_MASKS)


def is_accessory(path: Path) -> bool:
    """Return whether a name says that a file is hidden, a mask, or a picture of a slide (label, thumbnail, macro)."""
    named = path.suffix.lower() in _PICTURES and _ACCESSORY.fullmatch(path.stem.casefold()) is not None
    return path.name.startswith(_HIDDEN) or named


def is_mask_name(path: Path) -> bool:
    """Return whether the end of a name, or that of its folder, says that a picture is a label image."""
    names = (path.stem.casefold(), path.parent.name.casefold())
    return path.suffix.lower() in _PICTURES and any(_MASK.fullmatch(name) for name in names)
