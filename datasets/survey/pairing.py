"""Annotations and slides that belong together by their names, and the ids proposed for slides and patients."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tissuebench.datasets.documents import safe_id
from tissuebench.datasets.manifest import says_nothing

_TCGA = re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})-", re.IGNORECASE)
_NAMELESS = "slide"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Annotations by slide.

    Attributes:
        of_slide: the annotation of each slide that has exactly one.
        several: slides with more than one candidate, and the candidates.
        left: annotations that belong to no slide.
    """

    of_slide: dict[Path, Path]
    several: dict[Path, tuple[Path, ...]]
    left: tuple[Path, ...]


def pair(slides: Sequence[Path], annotations: Sequence[Path]) -> Pairs:
    """Assign each annotation to the slide whose name its own begins with, the longest if several do.

    ``S1.geojson``, ``S1.svs.geojson``, ``S1.svs - Series 0.geojson`` and ``S1_mask.png`` belong to ``S1.svs``;
    ``S10.geojson`` does not. Of slides with the same name, the nearest folder wins.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for slide in slides:
        by_stem[_key(slide_stem(slide))].append(slide)
    candidates: dict[Path, list[Path]] = defaultdict(list)
    left = []
    for annotation in annotations:
        name = _key(annotation.name)
        stems = [stem for stem in by_stem if name.startswith(stem) and not name[len(stem) : len(stem) + 1].isalnum()]
        if not stems:
            left.append(annotation)
            continue
        owners = by_stem[max(stems, key=len)]
        candidates[max(owners, key=lambda slide: _in_common(slide, annotation))].append(annotation)
    return Pairs(
        {slide: found[0] for slide, found in candidates.items() if len(found) == 1},
        {slide: tuple(found) for slide, found in candidates.items() if len(found) > 1},
        tuple(left),
    )


def slide_stem(slide: Path) -> str:
    """Return the name of a slide without its suffix, ``.ome`` included."""
    return slide.name if slide.is_dir() and slide.suffix != ".zarr" else slide.stem.removesuffix(".ome")


def proposed_ids(slides: Sequence[Path], root: Path, taken: Sequence[str] = ()) -> dict[Path, str]:
    """Return an id for each slide: its name, spelled in letters that ids allow; unique, and none of those taken.

    If two slides have the same name, the names of their folders precede it.
    """
    plain = {slide: _named(slide_stem(slide)) for slide in slides}
    times = Counter(plain.values())
    ids: dict[Path, str] = {}
    used = set(taken)
    for slide, proposed in plain.items():
        folders = slide.relative_to(root).parent.parts
        name = safe_id("-".join((*folders, plain[slide]))) if times[proposed] > 1 else proposed
        number, base = 2, name
        while name in used:
            name, number = f"{base}-{number}", number + 1
        used.add(name)
        ids[slide] = name
    return ids


def proposed_patient(slide: Path, slide_id: str) -> str:
    """Return the patient in a TCGA barcode; otherwise the slide's own id, for the user to correct."""
    found = _TCGA.match(slide.name)
    return found[1].upper() if found else slide_id


def _named(name: str) -> str:
    """Return an id for a name, also for one that a manifest would read as no name (``none``, ``NA``)."""
    plain = safe_id(name)
    return f"{_NAMELESS}_{plain}".rstrip("_") if says_nothing(plain) else plain


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _in_common(slide: Path, annotation: Path) -> tuple[int, int]:
    """Return how many folders two paths share, and how few lie between them."""
    shared = sum(one == other for one, other in zip(slide.parts, annotation.parts, strict=False))
    return shared, -len(slide.parts)
