"""Options of a prediction that are the same for all slides of a command."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

from tissuebench.common.hashing import Json
from tissuebench.datasets.readers import Slide
from tissuebench.errors import ConfigError, DataError
from tissuebench.prediction.geojson import OutlineSettings
from tissuebench.prediction.simplify import check_tolerance


@dataclass(frozen=True, slots=True)
class PredictionOptions:
    """Options of a prediction.

    Attributes:
        mpp: micrometres per pixel of the slides' level 0, overriding the value in the files.
        reader: name of the reader; empty selects it by the suffix.
        series: image of a file that holds several, see ``open_slide``.
        glass: whether pixels off the tissue count in areas.csv and get outlines, too.
        frame: coordinates of the outlines, if a slide states the bounds of its scanned part: ``bounds`` are those of
            that part, to which QuPath crops the slide, ``slide`` those of the whole level 0.
        min_area_um2: areas below this are left out of the outlines, and holes below it filled.
        simplify_px: maximum distance between an outline and the borders of pixels, in pixels of the labels; 0 keeps
            these borders.
        compress: whether the outlines are written as ``labels.geojson.gz``.

    Raises:
        ConfigError: ``simplify_px`` is neither 0 nor at least 1, or the smallest area is not a number from 0 on.
    """

    mpp: float | None = None
    reader: str = ""
    series: str = ""
    glass: bool = False
    frame: Literal["slide", "bounds"] = "bounds"
    min_area_um2: float = 0.0
    simplify_px: float = 1.0
    compress: bool = False

    def __post_init__(self) -> None:
        check_tolerance(self.simplify_px)
        if not 0 <= self.min_area_um2 < math.inf:
            raise ConfigError(f"--min-area {self.min_area_um2:g}: write an area in µm², 0 or more")

    def document(self) -> dict[str, Json]:
        """Return the options as stored with a prediction."""
        return asdict(self)

    def frame_of(self, slide: Slide) -> Literal["slide", "bounds"]:
        """Return the frame of a slide's outlines: ``slide`` if it states no bounds."""
        return "slide" if slide.bounds is None else self.frame

    def outlines_of(self, slide: Slide) -> OutlineSettings:
        """Return the form of a slide's outlines.

        Raises:
            DataError: there is a smallest area, but the resolution of the slide is unknown.
        """
        min_area_px = 0.0
        if self.min_area_um2:
            if slide.mpp is None:
                raise DataError(f"{slide.path}: does not state its resolution, and --min-area is in µm²; give --mpp")
            min_area_px = self.min_area_um2 / slide.mpp**2
        bounds = slide.bounds if self.frame == "bounds" else None
        origin = (0, 0) if bounds is None else (bounds.y, bounds.x)
        return OutlineSettings(origin, min_area_px, self.simplify_px)
