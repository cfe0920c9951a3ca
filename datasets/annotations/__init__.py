"""From annotation files to one raster of class ids."""

from tissuebench.datasets.annotations.geojson import read_geojson
from tissuebench.datasets.annotations.label_image import read_label_image

__all__ = ["read_geojson", "read_label_image"]
