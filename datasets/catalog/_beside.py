"""Files next to the slides of a manifest that no row names: slides that were forgotten, and what else lies there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tissuebench.common.text_files import tidy
from tissuebench.datasets.manifest import BadRow, ManifestRow, is_accessory
from tissuebench.datasets.readers import SLIDE_SUFFIXES
from tissuebench.datasets.readers.companions import companions

_PLAIN = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(frozen=True, slots=True)
class Beside:
    """Files in the folders of the slides, named by no row.

    Attributes:
        slides: files that are slides by their name.
        others: pictures of a slide (labels, thumbnails, macros, masks) and hidden files with the suffix of a slide.
    """

    slides: tuple[Path, ...]
    others: tuple[Path, ...]


def beside(rows: Sequence[ManifestRow | BadRow]) -> Beside:
    """Return the files next to the slides of these rows; other files of a slide (DICOM, MIRAX) belong to it."""
    good = [row for row in rows if isinstance(row, ManifestRow)]
    named = {entry for row in good for entry in (row.image, row.annotation) if entry}
    known = {_plain(path) for name in named for path in (name, *companions(name))}
    tried = {_folded(path) for row in rows if isinstance(row, BadRow) for name in row.files for path in _meant(name)}
    stems = {(_plain(row.image).parent, row.image.stem.casefold()) for row in good}
    slides: list[Path] = []
    others: list[Path] = []
    for folder in sorted({row.image.parent for row in good if row.image.is_file()}):
        for found in sorted(folder.iterdir()):
            if found.suffix.lower() not in SLIDE_SUFFIXES or _plain(found) in known or _folded(found) in tried:
                continue
            (others if _is_no_slide(_plain(found), stems) else slides).append(found)
    return Beside(tuple(slides), tuple(others))


def _is_no_slide(path: Path, stems: set[tuple[Path, str]]) -> bool:
    """Return whether a name says that a file is no slide; a plain picture with the name of a slide shows that slide."""
    suffix, stem = path.suffix.lower(), path.stem.casefold()
    if is_accessory(path) or (path.is_dir() and suffix != ".zarr"):
        return True
    return suffix in _PLAIN and bool({(path.parent, stem), (path.parent, Path(stem).stem)} & stems)


def _meant(name: Path) -> tuple[Path, ...]:
    """Return the files that an unusable row may mean; that it names them is told already."""
    return (name, Path(str(name).replace("\\", "/")), *companions(name))


def _folded(path: Path) -> str:
    return tidy(str(_plain(path))).casefold()


def _plain(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - without following links
