"""Drawn figures and their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

Record = Mapping[str, str | int | float | None]


@dataclass(frozen=True, eq=False)
class Picture:
    """A drawn figure.

    Attributes:
        name: file name without its extension.
        caption: explanation of how to read the figure.
        width: natural width of a panel in CSS pixels.
        panels: SVG for embedding in HTML; names in it are escaped.
        svg, pdf, csv: contents of the files.
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
    """Return CSV: a header and one line per record; empty where there is no value."""
    frame = pd.DataFrame(records, dtype=object)  # whole numbers stay whole beside missing ones
    return bytes(frame.to_csv(index=False, lineterminator="\n").encode())
