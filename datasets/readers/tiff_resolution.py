"""Resolution of a TIFF, from the most reliable source: Aperio's text, OME-XML, then the resolution tags."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element

import defusedxml.ElementTree
import tifffile

from tissuebench.datasets.readers.resolution import micrometres, square_mpp
from tissuebench.errors import DataError

_TAG_UNITS = {2: "inch", 3: "cm"}  # TIFF 6.0, tag 296 ResolutionUnit; 1 means "no unit"


def require_plain_xml(path: Path, page: tifffile.TiffPage) -> None:
    """Raise if the XML defines entities, before any parser sees it.

    Raises:
        DataError: the description has a document type, which no slide format has.
    """
    description = str(page.description).lower()
    if "<!doctype" in description or "<!entity" in description:
        raise DataError(f"{path}: its XML description defines entities; no scanner writes that, leave the file out")


def tiff_mpp(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> float | None:
    """Return micrometres per pixel of a series; None if the file does not say, or states an implausible value.

    Raises:
        DataError: pixels are not square.
    """
    found = None
    is_baseline = series.name in ("", "Baseline")  # a thumbnail repeats the fields of the slide
    if tif.is_svs and is_baseline and (text := aperio_fields(series.keyframe).get("MPP")) is not None:
        found = square_mpp(path, _number(text), None)
    if found is None and tif.is_ome:
        found = ome_mpp(path, tif, series)
    return found if found is not None else _tag_mpp(path, series.keyframe)


def aperio_fields(page: tifffile.TiffPage) -> dict[str, str]:
    """Return the ``key = value`` pairs of Aperio's ImageDescription."""
    parts = re.split(r"[|;\r\n]", str(page.description))
    pairs = (part.partition("=") for part in parts)
    return {key.strip(): value.strip() for key, sign, value in pairs if sign}


def ome_mpp(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> float | None:
    """Return micrometres per pixel of a series by OME-XML; None if that does not say.

    Raises:
        DataError: pixels are not square.
    """
    root: Element = defusedxml.ElementTree.fromstring(tif.pages.first.description)
    pixels = _pixels_of(root, series.keyframe)
    if pixels is None:
        return None
    sides = []
    for axis in "XY":
        value = _number(pixels.get(f"PhysicalSize{axis}", ""))
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")  # the default of the schema
        sides.append(None if value is None else micrometres(value, unit))
    return square_mpp(path, *sides)


def _pixels_of(root: Element, page: tifffile.TiffPage) -> Element | None:
    """Return the ``Pixels`` that start at a page; a sole one even if it does not name the page."""
    every = [node for node in root.iter() if _kind(node) == "Pixels"]
    if len(every) == 1:
        return every[0]
    starts = [min((int(one.get("IFD", "0")) for one in node if _kind(one) == "TiffData"), default=-1) for node in every]
    return next((node for node, start in zip(every, starts, strict=True) if start == page.index), None)


def _kind(node: Element) -> str:
    return str(node.tag).rpartition("}")[2]


def _tag_mpp(path: Path, page: tifffile.TiffPage) -> float | None:
    unit = page.tags.get("ResolutionUnit")
    if unit is None or int(unit.value) not in _TAG_UNITS:
        return None
    sides = []
    for name in ("XResolution", "YResolution"):
        tag = page.tags.get(name)
        pixels, units = (0, 0) if tag is None else tag.value
        sides.append(micrometres(units / pixels, _TAG_UNITS[int(unit.value)]) if pixels and units else None)
    return square_mpp(path, *sides)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
