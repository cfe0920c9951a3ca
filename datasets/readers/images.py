"""Choice among the images of one file: the slide, not its label, its macro photograph or its thumbnail."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tissuebench.errors import DataError

_ASSOCIATED = re.compile(
    r"(?<![a-z])(label|macro|thumb(nail)?|overview|preview|barcode|mask|map|probability)s?( ?image)?(?![a-z])"
)
_COMPARABLE_AREA = 0.25
_SAME_MPP, _SAME_ASPECT, _REDUCED = 0.1, 0.02, 1.25


class NotRgbError(DataError):
    """An image of a file is not 8-bit RGB."""


@dataclass(frozen=True, slots=True)
class FileImage:
    """One image of a file.

    Attributes:
        name: as the file says; may be empty.
        height: of its finest level, in pixels; 0 if it is not 8-bit RGB and its size was not asked for.
        width: likewise.
        levels: number of its levels.
        mpp: micrometres per pixel, if the file says so for this image alone.
        rgb: whether it is 8-bit RGB.
        reduced: whether the file says that it is a smaller copy of another.
        tiled: whether it is stored in tiles, as slides are and photographs are not.
    """

    name: str
    height: int
    width: int
    levels: int = 1
    mpp: float | None = None
    rgb: bool = True
    reduced: bool = False
    tiled: bool = True

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    @property
    def associated(self) -> bool:
        """Whether its name says that it shows the slide's label, or the slide as a whole."""
        return _ASSOCIATED.search(self.name.lower()) is not None


def choose_image(path: Path, images: Sequence[FileImage], series: str = "") -> tuple[int, tuple[str, ...]]:
    """Return the number of the image to read, and a note where the file leaves a choice.

    Without ``series`` it is the largest in pixels among the 8-bit RGB images that are neither called label, macro or
    the like nor smaller copies.

    Args:
        path: file name for errors.
        images: all images of the file, at least one.
        series: number of an image, from 0, or its name.

    Raises:
        DataError: no image has that number or name, or two images of similar size may both be the slide.
    """
    if series:
        return _named(path, images, series), ()
    own = [one for one, image in enumerate(images) if image.rgb and not image.associated and not image.reduced]
    candidates = own or [one for one, image in enumerate(images) if image.rgb] or range(len(images))
    chosen = max(candidates, key=lambda one: (images[one].area, -one))
    others = [one for one in candidates if one != chosen]
    if any(_may_be_the_slide(images[one], images[chosen]) for one in others):
        raise DataError(
            f"{path}: {len(images)} images, of which several may be the slide: {_listed(images)}; "
            "choose one in the manifest's column 'series' (predict: --series)"
        )
    larger = any(image.rgb and image.area > images[chosen].area for image in images)
    if not others and not larger and chosen == 0:
        return chosen, ()
    rest = _listed(images, [one for one in range(len(images)) if one != chosen])
    read = _described(images[chosen])
    return chosen, (f"series {chosen} of {len(images)} images ({read}) was read; the others: {rest}",)


def _named(path: Path, images: Sequence[FileImage], series: str) -> int:
    if series.isascii() and series.isdigit() and int(series) < len(images):
        return int(series)
    found = [one for one, image in enumerate(images) if image.name == series]
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} images have the name" if found else "no image has the number or name"
    raise DataError(f"{path}: {problem} {series!r} given as series; the file holds {_listed(images)}")


def _may_be_the_slide(image: FileImage, largest: FileImage) -> bool:
    """Return whether an image is large enough to hold tissue of its own, and no overview or copy of the largest."""
    if image.area < _COMPARABLE_AREA * largest.area:
        return False
    if image.mpp is not None and largest.mpp is not None:
        return abs(image.mpp / largest.mpp - 1) <= _SAME_MPP
    if (image.levels > 1, image.tiled) != (largest.levels > 1, largest.tiled):
        return False
    down, across = largest.height / image.height, largest.width / image.width
    return min(down, across) < _REDUCED or abs(down / across - 1) > _SAME_ASPECT


def _listed(images: Sequence[FileImage], numbers: Sequence[int] | None = None) -> str:
    chosen = range(len(images)) if numbers is None else numbers
    return ", ".join(f"series {one} ({_described(images[one])})" for one in chosen)


def _described(image: FileImage) -> str:
    parts = [repr(image.name)] if image.name else []
    parts += [f"{image.width} x {image.height} px"] if image.area else []
    return ", ".join(parts if image.rgb else [*parts, "not 8-bit RGB"])
