"""Reader for the XML of annotation programs, without entity expansion."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from defusedxml.ElementTree import ParseError, parse

from tissuebench.errors import DataError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def read_root(path: Path) -> Element:
    """Return the root element of an XML file.

    Raises:
        DataError: unreadable, not XML, or with entities, which no annotation program writes.
    """
    try:
        root = parse(path).getroot()
    except (OSError, ParseError, ValueError, LookupError) as error:
        because = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as XML ({because}); export it again") from None
    if root is None:
        raise DataError(f"{path}: cannot be read as XML (it holds no element); export it again")
    return root


def point_of(path: Path, where: str, element: Element) -> tuple[float, float]:
    """Return the attributes X and Y of an element.

    Raises:
        DataError: missing, or not finite numbers.
    """
    try:
        point = float(element.attrib["X"]), float(element.attrib["Y"])
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{path}: {where}: {element.tag} needs numbers X and Y ({type(error).__name__}: {error}); export it again"
        ) from None
    if not (math.isfinite(point[0]) and math.isfinite(point[1])):
        raise DataError(f"{path}: {where} has a coordinate that is not a finite number; draw it again")
    return point
