"""Conversion of a sheet's SVG file to panels for embedding in HTML, in the font and colours of the page."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from defusedxml.ElementTree import fromstring
from markupsafe import Markup

from tissuebench.results.report.styles import VARIABLES

Box = tuple[float, float, float, float]
"""(x, y, width, height)"""

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([\w-]+)\)")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_COLOR = re.compile("|".join(VARIABLES))
_FONT = re.compile(r"font-family:[^;]*;?\s*")


def cut(svg: str, prefix: str, labels: Sequence[str], boxes: Sequence[Box]) -> tuple[Markup, ...]:
    """Split the groups ``panel-0``, ``panel-1``... of a matplotlib drawing into separate drawings.

    Args:
        svg: the whole drawing.
        prefix: prefix of all ids, which makes them unique on a page.
        labels: description of each panel for screen readers.
        boxes: position and size of each panel.
    """
    root = fromstring(svg)
    by_id = {element.get("id", ""): element for element in root.iter() if "id" in element.attrib}
    return tuple(
        _panel(by_id, by_id[f"panel-{i}"], f"{prefix}-{i}-", label, box)
        for i, (label, box) in enumerate(zip(labels, boxes, strict=True))
    )


def _panel(
    by_id: dict[str, ElementTree.Element], group: ElementTree.Element, prefix: str, label: str, box: Box
) -> Markup:
    group = copy.deepcopy(group)
    for parent in group.iter():  # the definitions in use go first, once
        for child in [one for one in parent if one.tag == f"{_SVG}defs"]:
            parent.remove(child)
    used: dict[str, ElementTree.Element] = {}
    waiting = _references(group)
    while waiting:
        name = waiting.pop()
        if name not in used:
            used[name] = copy.deepcopy(by_id[name])
            waiting += _references(used[name])
    out = ElementTree.Element("svg", viewBox=" ".join(_short(f"{value:.6f}") for value in box), role="img")
    out.set("aria-label", label)
    if used:
        ElementTree.SubElement(out, "defs").extend(used[name] for name in sorted(used))
    out.append(group)
    for element in out.iter():
        _settle(element, prefix, used)
    return Markup(ElementTree.tostring(out, encoding="unicode"))  # noqa: S704 - serialised, so it is escaped


def _references(element: ElementTree.Element) -> list[str]:
    found = []
    for one in element.iter():
        for name, value in one.attrib.items():
            if name == _LINK:
                found.append(value.removeprefix("#"))
            else:
                found += _REFERENCE.findall(value)
    return found


def _settle(element: ElementTree.Element, prefix: str, used: dict[str, ElementTree.Element]) -> None:
    """Adapt an element to the page: strip namespaces, prefix ids, use page colours and font, round numbers."""
    element.tag = element.tag.removeprefix(_SVG)
    element.tail = None
    if element.tag != "text":
        element.text = None
    attributes = dict(element.attrib)
    element.attrib.clear()
    for name, value in attributes.items():
        if name == "id":
            if value in used:
                element.set("id", prefix + value)
        elif name == _LINK:
            element.set("href", f"#{prefix}{value.removeprefix('#')}")
        elif name == "aria-label":
            element.set(name, value)
        else:
            value = _REFERENCE.sub(lambda match: f"url(#{prefix}{match[1]})", value)
            if name == "style":
                value = _FONT.sub("", _COLOR.sub(lambda match: f"var({VARIABLES[match[0]]})", value))
            element.set(name, _LONG_NUMBER.sub(lambda match: _short(match[0]), " ".join(value.split())))


def _short(number: str) -> str:
    """Format with two decimals, without trailing zeros."""
    return f"{float(number):.2f}".rstrip("0").rstrip(".") or "0"
