"""A figure once it is drawn, and the numbers in it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Record = Mapping[str, str | int | float | None]


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure.

    Attributes:
        name: of its files, without their end.
        caption: how to read it.
        width: natural width of a panel in CSS pixels.
        panels: SVG to stand in HTML; names in it are escaped.
        svg, pdf, csv: the files.
    """

    name: str
    title: str
    caption: str
    width: int
    panels: tuple[Markup, ...]
    svg: bytes
    pdf: bytes
    csv: bytes


def to_csv(records: Sequence[Record]) -> bytes:
    """A header and one line a record; empty where there is no value."""
    out = io.StringIO()
    writer = csv.DictWriter(
        out, list(dict.fromkeys(name for record in records for name in record)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().encode()
