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


@dataclass(frozen=True, eq=False)
class Labelled:
    """An image and its labels, which shows itself as both, side by side.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 class ids, 255 where there is none.
        class_map: names and colours of the classes.
        title: caption of the picture.
    """

    image: Pixels
    labels: Pixels
    class_map: ClassMap
    title: str

    @property
    def overlay(self) -> Pixels:
        """The image under the colours of its labels, (H, W, 3) uint8."""
        return overlay(self.image, self.labels, self.class_map)

    def save(self, path: Path | str) -> None:
        """Write the picture; the suffix decides the format."""
        Image.fromarray(self._both).save(path)

    @property
    def _both(self) -> Pixels:
        gap = np.full((len(self.image), _GAP_PX, 3), 255, np.uint8)
        return np.concatenate([self.image, gap, self.overlay], axis=1)

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        Image.fromarray(self._both).save(out, "PNG")
        return out.getvalue()

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f"<{self.title}: {width} x {height} px>"


@dataclass(frozen=True, eq=False)
class Gallery:
    """Pictures in rows, each row under its name; shows itself in a notebook."""

    rows: Mapping[str, Sequence[Labelled]]

    def _repr_html_(self) -> str:
        parts = []
        for name, pictures in self.rows.items():
            parts.append(f"<p><b>{html.escape(name)}</b></p>")
            parts += [
                f'<img src="data:image/jpeg;base64,{_jpeg(one.overlay)}" title="{html.escape(one.title)}" '
                'style="display: inline-block; margin: 2px">'
                for one in pictures
            ]
        return f"<div>{''.join(parts)}</div>"

    def __repr__(self) -> str:
        return f"<{sum(map(len, self.rows.values()))} pictures: {', '.join(self.rows)}>"


def legend(class_map: ClassMap) -> str:
    """Return the classes with their colours as HTML."""
    return " ".join(
        f'<span style="white-space: nowrap"><span style="background: rgb{color}; display: inline-block; width: 1em; '
        f'height: 1em; vertical-align: middle"></span> {html.escape(name)}</span>'
        for name, color in zip(class_map.names, class_map.colors, strict=True)
    )


def _jpeg(pixels: Pixels) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return base64.b64encode(out.getvalue()).decode()
