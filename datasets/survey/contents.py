"""Contents of a folder: slides with their resolution, annotations with the names and areas of their classes."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tissuebench.datasets.annotations import ANNOTATION_SUFFIXES
from tissuebench.datasets.annotations.listing import is_label_image, listed_names, listed_values
from tissuebench.datasets.manifest import is_accessory, is_mask_name
from tissuebench.datasets.readers import SLIDE_SUFFIXES, companions, open_slide
from tissuebench.datasets.survey.pairing import Pairs, pair
from tissuebench.errors import DataError

_ZARR_FILES = ("zarr.json", ".zgroup")
_OURS = ("manifest.csv", "dataset.yaml")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class FoundSlide:
    """A slide: its resolution if the file says it, or why it cannot be opened."""

    path: Path
    mpp: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class FoundClass:
    """A class as the annotations spell it.

    Attributes:
        name: as in the files.
        count: number of annotated areas.
        area: in pixels of the annotations; those of slides scanned at different resolutions are added all the same.
        color: its colour in the files; None if they give none.
        slides: the annotations that it occurs in.
    """

    name: str
    count: int
    area: float
    color: tuple[int, int, int] | None
    slides: frozenset[Path]


@dataclass(frozen=True, slots=True)
class Contents:
    """Slides and annotations of a folder, which of them belong together, and the classes.

    Attributes:
        unread: annotations whose classes could not be listed, each with the reason.
        unnamed: number of areas without a class.
        values: pixels of each value, in all label images.
    """

    slides: tuple[FoundSlide, ...]
    pairs: Pairs
    classes: tuple[FoundClass, ...]
    unread: tuple[str, ...]
    unnamed: int
    values: Mapping[int, int]


def survey(root: Path, progress: Progress = lambda what, done, total: None) -> Contents:
    """Look at all files below a folder and read what the headers of slides and the annotations say.

    Hidden files and folders are not looked at. Pixels are not read, but for label images.

    Raises:
        DataError: no such folder, or no slide in it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    paths, annotations = _sorted_out(root)
    if not paths:
        raise DataError(f"{root}: no slide is found below it; known formats: {', '.join(SLIDE_SUFFIXES)}")
    slides = []
    for number, path in enumerate(paths):
        progress("reading slides", number, len(paths))
        slides.append(_looked_at(path))
    progress("reading slides", len(paths), len(paths))
    pairs = pair(paths, annotations)
    counts: dict[str, list[tuple[Path, int, float, tuple[int, int, int] | None]]] = defaultdict(list)
    unread: list[str] = []
    unnamed = 0
    values: Counter[int] = Counter()
    paired = sorted(pairs.of_slide.values())
    for number, path in enumerate(paired):
        progress("reading annotations", number, len(paired))
        try:
            if is_label_image(path):
                values.update(listed_values(path))
                continue
            names = listed_names(path)
        except DataError as error:
            unread.append(str(error))
            continue
        for one in names:
            if one.name:
                counts[one.name].append((path, one.count, one.area, one.color))
            else:
                unnamed += one.count
    if paired:
        progress("reading annotations", len(paired), len(paired))
    classes = [
        FoundClass(
            name,
            sum(count for _, count, _, _ in found),
            sum(area for _, _, area, _ in found),
            next((color for _, _, _, color in found if color is not None), None),
            frozenset(path for path, _, _, _ in found),
        )
        for name, found in counts.items()
    ]
    return Contents(tuple(slides), pairs, tuple(classes), tuple(unread), unnamed, values)


def _looked_at(path: Path) -> FoundSlide:
    try:
        with open_slide(path, None) as slide:
            return FoundSlide(path, slide.level0_mpp)
    except DataError as error:
        return FoundSlide(path, None, str(error))


def _sorted_out(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the slides and the annotations below a folder."""
    slides: list[Path] = []
    annotations: list[Path] = []
    for path in _walk(root):
        name = path.name.lower()
        if is_mask_name(path) and name.endswith(ANNOTATION_SUFFIXES):
            annotations.append(path)
        elif path.is_dir() or (path.suffix.lower() in SLIDE_SUFFIXES and not is_accessory(path)):
            slides.append(path)
        elif name not in _OURS and not is_label_image(path) and name.endswith(ANNOTATION_SUFFIXES):
            annotations.append(path)
    return _one_per_slide(slides), annotations


def _walk(root: Path) -> Iterator[Path]:
    """Yield files, and folders that are one image, in the order of their names."""
    for folder, inside, files in os.walk(root):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        here = Path(folder)
        images = [name for name in inside if any((here / name / one).is_file() for one in _ZARR_FILES)]
        inside[:] = [name for name in inside if name not in images]
        yield from (here / name for name in images)
        yield from (here / name for name in sorted(files) if not name.startswith("."))


def _one_per_slide(found: Sequence[Path]) -> list[Path]:
    """Return the slides without the other files of each, the largest standing for a DICOM series."""
    slides: list[Path] = []
    taken: set[Path] = set()
    for path in found:
        if path not in taken:
            others = companions(path)
            taken.update(others)
            same = [path, *(other for other in others if other.suffix.lower() == path.suffix.lower())]
            slides.append(max(same, key=lambda one: (one.stat().st_size, one.name)) if path.is_file() else path)
    return slides
