"""Single entry point for all annotation formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tissuebench.datasets.annotations.aperio import read_aperio
from tissuebench.datasets.annotations.asap import read_asap
from tissuebench.datasets.annotations.geojson import read_geojson
from tissuebench.datasets.annotations.label_image import PLAIN_SUFFIXES, TIFF_SUFFIXES, LabelImage
from tissuebench.datasets.annotations.polygons import PolygonLabels, check_order, in_drawing_order, within_slide
from tissuebench.datasets.annotations.region import Drawing
from tissuebench.datasets.annotations.source import Frame, LabelSource
from tissuebench.datasets.annotations.xml_file import read_root
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap
from tissuebench.errors import ConfigError, DataError, unknown_name

_GEOJSON_SUFFIXES = (".geojson", ".json")
_XML_SUFFIXES = (".xml",)
ANNOTATION_SUFFIXES = _GEOJSON_SUFFIXES + _XML_SUFFIXES + PLAIN_SUFFIXES + TIFF_SUFFIXES
"""File name suffixes that ``open_annotation`` reads, in lower case."""


def open_annotation(
    path: Path,
    class_map: ClassMap,
    frame: Frame,
    drawing_order: tuple[str, ...] | None = None,
    *,
    region_class: str | None = None,
    background: str | None = None,
    instance_class: str | None = None,
    ignore_index: int | None = None,
    class_names: Mapping[str, str | None] = MappingProxyType({}),
    mask_values: Mapping[int, str | None] = MappingProxyType({}),
) -> LabelSource:
    """Open the annotation of one slide: QuPath GeoJSON, ASAP or Aperio XML, or a label image.

    The keyword arguments mean the same as in a ``Recipe``. Arguments for polygons are ignored for label images, and
    vice versa.

    Args:
        path: the file; its suffix determines the format, for XML together with the root element.
        class_map: names, or values and colours, that the file may use.
        frame: position of the raster on the slide.
        drawing_order: class names from first to last drawn, so that later ones cover earlier ones; unlisted classes are
            drawn before them. Within a class the order of the file is kept; None keeps it for all regions.
        region_class: class of all polygons, whatever the file calls them; None uses the file's names.
        background: class of the pixels that no polygon covers; None leaves them unannotated.
        instance_class: class of all values above 0 in a label image, with 0 as class 0; None reads values as class ids.
        ignore_index: value of a label image that means "not annotated", in addition to 255.
        class_names: class that a name in polygon files stands for, by pattern; None leaves its regions out.
        mask_values: class of each value of a label image, None is "not annotated"; if empty, values are class ids.

    Raises:
        DataError: missing or unusable file.
        ConfigError: an argument names a class that does not exist.

    Examples:
        >>> classes = ClassMap(("stroma", "tumour"), ((240, 150, 180), (200, 40, 40)))
        >>> frame = Frame(level0_size=(4096, 4096), size=(1024, 1024), scale=4.0)
        >>> open_annotation(Path("slide.geojson"), classes, frame).raster(y=0, x=0, height=256, width=256).shape
        (256, 256)
    """
    for name in (region_class, background, instance_class):
        if name is not None and name not in class_map.names:
            raise ConfigError(unknown_name("class", name, class_map.names))
    check_order(class_map, drawing_order or ())
    suffix = path.suffix.lower()
    if suffix not in ANNOTATION_SUFFIXES:
        raise DataError(f"{path}: unknown annotation format {suffix!r}; known: {', '.join(ANNOTATION_SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the manifest's column 'annotation'")
    if suffix in PLAIN_SUFFIXES + TIFF_SUFFIXES:
        instance_id = None if instance_class is None else class_map.names.index(instance_class)
        return LabelImage(path, class_map, frame, instance_id, ignore_index)
    drawing = (_read_xml if suffix in _XML_SUFFIXES else read_geojson)(path, class_map, region_class)
    if not drawing.regions:
        raise DataError(f"{path}: holds no annotation with an area")
    placed, clipped = within_slide(path, drawing.regions, frame)
    return PolygonLabels(
        in_drawing_order(placed, class_map, drawing_order),
        frame,
        (*drawing.notes, *clipped),
        IGNORE_LABEL if background is None else class_map.names.index(background),
    )


def _read_xml(path: Path, class_map: ClassMap, region_class: str | None) -> Drawing:
    root = read_root(path)
    if root.tag == "ASAP_Annotations":
        return read_asap(path, root, class_map, region_class)
    if root.tag == "Annotations":
        return read_aperio(path, root, class_map, region_class)
    raise DataError(
        f"{path}: the root element is {root.tag!r}; known: 'ASAP_Annotations' (ASAP), 'Annotations' (Aperio ImageScope)"
    )
