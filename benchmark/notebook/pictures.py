"""Pictures that show themselves in a notebook."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tissuebench.datasets.types import ClassMap
from tissuebench.inspection.tiles import overlay

Pixels = NDArray[np.uint8]
_GAP_PX = 8
_JPEG_QUALITY = 85


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture.

    Attributes:
        title: caption.
        pixels: (H, W, 3) uint8 RGB, as shown.
    """

    title: str
    pixels: Pixels

    def save(self, path: Path | str) -> None:
        """Write the picture; the suffix decides the format."""
        Image.fromarray(self.pixels).save(path)

    def _repr_jpeg_(self) -> bytes:
        out = io.BytesIO()
        Image.fromarray(self.pixels).save(out, "JPEG", quality=_JPEG_QUALITY)
        return out.getvalue()

    def __repr__(self) -> str:
        height, width = self.pixels.shape[:2]
        return f"<{self.title}: {width} x {height} px>"


@dataclass(frozen=True, eq=False)
class Labelled:
    """An image and its labels.

    Attributes:
        title: caption.
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 class ids, 255 where there is none.
        class_map: names and colours of the classes.
    """

    title: str
    image: Pixels
    labels: Pixels
    class_map: ClassMap

    @property
    def overlay(self) -> Picture:
        """The image under the colours of its labels."""
        return Picture(self.title, overlay(self.image, self.labels, self.class_map))

    @property
    def picture(self) -> Picture:
        """The image, and to its right the same under the colours of its labels; shown in a notebook."""
        gap = np.full((len(self.image), _GAP_PX, 3), 255, np.uint8)
        return Picture(self.title, np.concatenate([self.image, gap, self.overlay.pixels], axis=1))

    def _repr_jpeg_(self) -> bytes:
        return self.picture._repr_jpeg_()

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f"<{self.title}: {width} x {height} px>"


@dataclass(frozen=True, eq=False)
class Gallery:
    """Pictures in rows, each row under its name."""

    rows: Mapping[str, Sequence[Picture]]

    def _repr_html_(self) -> str:
        return "".join(
            f"<div><b>{html.escape(name)}</b><br>{''.join(map(_element, pictures))}</div>"
            for name, pictures in self.rows.items()
        )

    def __repr__(self) -> str:
        return f"<{sum(map(len, self.rows.values()))} pictures: {', '.join(self.rows)}>"


def legend(class_map: ClassMap) -> str:
    """Return the classes with their colours as HTML."""
    return " ".join(
        f'<span style="white-space: nowrap"><span style="background: rgb{color}; display: inline-block; width: 1em; '
        f'height: 1em; vertical-align: middle"></span> {html.escape(name)}</span>'
        for name, color in zip(class_map.names, class_map.colors, strict=True)
    )


def _element(picture: Picture) -> str:
    data = base64.b64encode(picture._repr_jpeg_()).decode()
    style = "display: inline-block; margin: 2px"
    return f'<img src="data:image/jpeg;base64,{data}" title="{html.escape(picture.title)}" style="{style}">'
