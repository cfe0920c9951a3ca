"""Single entry point for all annotation formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tissuebench.datasets.annotations.aperio import read_aperio
from tissuebench.datasets.annotations.asap import read_asap
from tissuebench.datasets.annotations.class_names import ClassNames
from tissuebench.datasets.annotations.extent import extent_of_polygons
from tissuebench.datasets.annotations.geojson import read_geojson
from tissuebench.datasets.annotations.label_image import PLAIN_SUFFIXES, TIFF_SUFFIXES, LabelImage
from tissuebench.datasets.annotations.mask_meaning import MaskMeaning
from tissuebench.datasets.annotations.polygons import PolygonLabels, check_order, in_drawing_order, within_slide
from tissuebench.datasets.annotations.region import Drawing
from tissuebench.datasets.annotations.source import Frame, LabelSource
from tissuebench.datasets.annotations.xml_file import read_root
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap, FrameName
from tissuebench.errors import ConfigError, DataError, unknown_name

_GEOJSON_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz")
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
    coordinates: FrameName = "auto",
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
        coordinates: the recipe's ``frame``: coordinates of the file, on a slide of which only a part was scanned.
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
    suffix = _suffix(path)
    if suffix not in ANNOTATION_SUFFIXES:
        raise DataError(f"{path}: unknown annotation format {suffix!r}; known: {', '.join(ANNOTATION_SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the manifest's column 'annotation'")
    if suffix in PLAIN_SUFFIXES + TIFF_SUFFIXES:
        meaning = MaskMeaning(path, class_map, instance_class, ignore_index, mask_values)
        return LabelImage(path, meaning, frame, coordinates)
    is_geojson = suffix in _GEOJSON_SUFFIXES
    drawing = _read_polygons(path, is_geojson, class_map, region_class, class_names)
    extent = extent_of_polygons(path, frame, coordinates, drawing.frame, is_geojson)
    placed, clipped = within_slide(path, drawing.regions, extent)
    return PolygonLabels(
        in_drawing_order(placed, class_map, drawing_order),
        frame,
        (*extent.notes, *drawing.all_notes(), *clipped),
        IGNORE_LABEL if background is None else class_map.names.index(background),
        (extent.y, extent.x),
    )


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((one for one in _GEOJSON_SUFFIXES if name.endswith(one)), path.suffix.lower())


def _read_polygons(
    path: Path,
    is_geojson: bool,
    class_map: ClassMap,
    region_class: str | None,
    class_names: Mapping[str, str | None],
) -> Drawing:
    """Return the regions of a file, with a note on those that are no label.

    Raises:
        DataError: unusable file, or nothing in it is a label.
    """

    def named_in(program: str) -> ClassNames:
        return ClassNames(path, class_map, region_class, program, class_names)

    if is_geojson:
        drawing = read_geojson(path, names := named_in("QuPath"))
    else:
        root = read_root(path)
        if root.tag == "ASAP_Annotations":
            drawing = read_asap(path, root, names := named_in("ASAP"))
        elif root.tag == "Annotations":
            drawing = read_aperio(path, root, names := named_in("ImageScope"))
        else:
            raise DataError(
                f"{path}: the root element is {root.tag!r}; known: 'ASAP_Annotations' (ASAP), 'Annotations' (Aperio "
                "ImageScope)"
            )
    drawing.notes += names.finish()
    if not drawing.regions:
        found = "; ".join(drawing.all_notes())
        raise DataError(
            f"{path}: holds no annotation with an area and a class{found and f' ({found})'}; empty the manifest's cell "
            "if there is none"
        )
    return drawing
