"""Annotation files as rasters of class ids, read block by block, and their conversion back to polygons."""

from tissuebench.datasets.annotations.opening import ANNOTATION_SUFFIXES, open_annotation
from tissuebench.datasets.annotations.outlines import polygons_of_raster, write_geojson
from tissuebench.datasets.annotations.region import Region
from tissuebench.datasets.annotations.source import Frame, LabelSource

__all__ = [
    "ANNOTATION_SUFFIXES",
    "Frame",
    "LabelSource",
    "Region",
    "open_annotation",
    "polygons_of_raster",
    "write_geojson",
]
