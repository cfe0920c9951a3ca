"""Readers of slide files: regions of RGB at a target mpp."""

from tissuebench.datasets.readers.blank import blank_notes
from tissuebench.datasets.readers.brightfield import require_brightfield, require_colour
from tissuebench.datasets.readers.companions import companions
from tissuebench.datasets.readers.formats import SLIDE_SUFFIXES
from tissuebench.datasets.readers.plain import ArrayReader
from tissuebench.datasets.readers.reader import Bounds, Level, SlideReader
from tissuebench.datasets.readers.slide import Slide, open_slide

__all__ = [
    "SLIDE_SUFFIXES",
    "ArrayReader",
    "Bounds",
    "Level",
    "Slide",
    "SlideReader",
    "blank_notes",
    "companions",
    "open_slide",
    "require_brightfield",
    "require_colour",
]
