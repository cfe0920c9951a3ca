"""Part of a slide that an annotation's coordinates refer to: the whole of level 0, or what QuPath shows of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tissuebench.datasets.annotations.source import Frame
from tissuebench.datasets.types import FrameName
from tissuebench.errors import DataError


@dataclass(frozen=True, slots=True)
class Extent:
    """Rectangle on level 0 in which an annotation was drawn.

    Attributes:
        y, x: its upper left pixel on level 0, the origin of the annotation's coordinates.
        height, width: its size in pixels of level 0.
        cropped: whether it is the scanned part of a slide that has more than that.
        slide: (height, width) of level 0, if the annotation may cover all of it, as predictions do; None if its program
            shows no more than this part.
    """

    y: int
    x: int
    height: int
    width: int
    cropped: bool = False
    slide: tuple[int, int] | None = None

    @property
    def limits(self) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge of what can be annotated, in its coordinates."""
        if self.slide is None:
            return 0, 0, self.width, self.height
        return -self.x, -self.y, self.slide[1] - self.x, self.slide[0] - self.y

    @property
    def name(self) -> str:
        """Name in messages."""
        return "the scanned part" if self.cropped else "slide"

    @property
    def notes(self) -> tuple[str, ...]:
        """Note on the origin of the coordinates, if it is not the slide's."""
        if not self.cropped:
            return ()
        return (
            f"coordinates are those of the scanned part, which begins at x {self.x}, y {self.y} of the slide "
            f"({self.width} x {self.height} px)",
        )


def whole_slide(frame: Frame) -> Extent:
    """Return the whole of level 0."""
    return Extent(0, 0, *frame.level0_size)


def scanned_part(frame: Frame) -> Extent:
    """Return the scanned part; the whole of level 0 for a slide without bounds."""
    if frame.bounds is None:
        return whole_slide(frame)
    return Extent(*frame.bounds, cropped=True)


def extent_of_polygons(
    path: Path, frame: Frame, asked: FrameName, declared: FrameName | None, is_geojson: bool
) -> Extent:
    """Return the part of the slide that a polygon file's coordinates refer to.

    By default QuPath's GeoJSON refers to the scanned part, to which QuPath crops a slide, and the XML of ASAP and
    ImageScope, which show all of it, to the slide.

    Args:
        path: the file, for messages.
        frame: position of the raster on the slide.
        asked: frame of the manifest or the dataset.
        declared: frame that the file itself states; it goes before the default.
        is_geojson: whether the file is GeoJSON.

    Raises:
        DataError: the file states another frame than the one asked for.
    """
    if declared is not None and asked not in ("auto", declared) and frame.bounds is not None:
        raise DataError(
            f"{path}: says that its frame is {declared!r}, but the manifest or dataset.yaml says {asked!r}; leave the "
            "frame out there"
        )
    by_default: FrameName = "bounds" if is_geojson else "slide"
    chosen = asked if asked != "auto" else declared or by_default
    extent = scanned_part(frame) if chosen == "bounds" else whole_slide(frame)
    return extent if declared is None else replace(extent, slide=frame.level0_size)
