"""A sheet of equally sized panels; the file shows all of them, the page splits them so that they stack on a phone.

Lengths are CSS pixels (1/72 inch of the file). Axes are drawn here, with light grid lines at the ticks and no frame.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D, Transform

from tissuebench.results.report.figures.inline import cut
from tissuebench.results.report.picture import Picture, Record, to_csv
from tissuebench.results.report.styles import INK, LINE, PAPER, SOFT, MethodStyle, plain

SMALL, NORMAL, LARGE = 10.0, 11.0, 12.0
_HEAD = 40.0
_STYLE: dict[str, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tissuebench",
    "pdf.fonttype": 42,
    "font.family": ["DejaVu Sans"],
    "text.parse_math": False,  # names may contain two $
    "text.usetex": False,
    "path.simplify": True,
}
_FONTS = "font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
Side = Literal["left", "center", "right"]


@dataclass(frozen=True, slots=True)
class Margins:
    """Distances between the edges of a panel and its axes."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, eq=False, slots=True)
class FigurePanel:
    """One panel: its axes and position on the sheet (x of the left edge, y of the top edge from the bottom)."""

    ax: Axes
    x: float
    y: float
    width: float
    height: float

    def text(
        self, x: float, y: float, words: str, *, size: float = NORMAL, color: str = INK, bold: bool = False,
        side: Side = "left",
    ) -> None:  # fmt: skip
        """Write text with its baseline ``y`` pixels below the top edge of the panel."""
        self.ax.text(
            self.x + x, self.y - y, plain(words), transform=self._pixels, fontsize=size, color=color, ha=side,
            va="baseline", fontweight="bold" if bold else "normal", parse_math=False,
        )  # fmt: skip

    @property
    def _pixels(self) -> Transform:
        """Pixels of the sheet, also in a file of a higher resolution."""
        return Affine2D().scale(1 / 72) + self.ax.figure.dpi_scale_trans

    def head(self, style: MethodStyle, beside: str) -> None:
        """Draw the marker and name of a method, with a line of text below."""
        self.mark(7, 12.5, style)
        self.text(18, 16.5, style.name, size=LARGE, bold=True)
        self.text(18, 31, beside, size=SMALL, color=SOFT)

    def mark(self, x: float, y: float, style: MethodStyle) -> None:
        """Draw the marker of a method."""
        self.ax.plot(
            [self.x + x], [self.y - y], transform=self._pixels, marker=style.marker, color=style.color,
            markersize=7.5, markeredgewidth=0, clip_on=False, linestyle="none",
        )  # fmt: skip

    def x_ticks(self, ticks: Sequence[float], labels: Sequence[str], title: str = "", *, rules: bool = True) -> None:
        """Draw vertical grid lines, with tick labels below the panel and the title below them."""
        low, high = self.ax.get_ylim()
        if rules:
            segments = [[(tick, low), (tick, high)] for tick in ticks]
            self.ax.add_collection(LineCollection(segments, colors=LINE, linewidths=0.8, zorder=0), autolim=False)
        box = self.ax.get_position()
        for tick, label in zip(ticks, labels, strict=True):
            self.ax.annotate(
                label, (tick, 0), xycoords=("data", "axes fraction"), xytext=(0, -5), textcoords="offset points",
                ha="center", va="top", fontsize=SMALL, color=SOFT, annotation_clip=False,
            )  # fmt: skip
        if title:
            width = self.ax.get_window_extent().width / box.width
            middle = (box.x0 + box.x1) / 2 * width - self.x
            self.text(middle, self.height - 5, title, size=SMALL, color=SOFT, side="center")

    def y_ticks(self, ticks: Sequence[float], labels: Sequence[str], *, rules: bool = True, color: str = SOFT) -> None:
        """Draw horizontal grid lines, with tick labels to the left of the panel."""
        low, high = self.ax.get_xlim()
        if rules:
            segments = [[(low, tick), (high, tick)] for tick in ticks]
            self.ax.add_collection(LineCollection(segments, colors=LINE, linewidths=0.8, zorder=0), autolim=False)
        for tick, label in zip(ticks, labels, strict=True):
            self.ax.annotate(
                plain(label), (0, tick), xycoords=("axes fraction", "data"), xytext=(-7, 0),
                textcoords="offset points", ha="right", va="center_baseline", fontsize=SMALL, color=color,
                annotation_clip=False,
            )  # fmt: skip


@contextmanager
def drawing() -> Iterator[None]:
    """Context manager that sets the style of the report, independent of the user's matplotlibrc."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page has more fonts than a PDF
        yield


class Sheet:
    """Panels in rows: draw into ``panels``, then call ``picture``. Use within ``drawing`` only."""

    def __init__(self, labels: Sequence[str], size: tuple[float, float], margins: Margins, columns: int) -> None:
        columns = max(1, min(columns, len(labels)))
        rows = -(-len(labels) // columns)
        self._labels, self._size, self._margins = labels, size, margins
        self._width, self._height = columns * size[0], rows * size[1] + _HEAD
        self._figure = Figure(figsize=(self._width / 72, self._height / 72), dpi=72, facecolor=PAPER)
        places = [(i % columns * size[0], i // columns * size[1]) for i in range(len(labels))]
        self.panels = [self._panel(i, x, y, margins) for i, (x, y) in enumerate(places)]

    def _panel(self, number: int, x: float, y: float, margins: Margins) -> FigurePanel:
        width, height = self._size
        top = self._height - _HEAD - y
        box = (
            (x + margins.left) / self._width,
            (top - height + margins.bottom) / self._height,
            (width - margins.left - margins.right) / self._width,
            (height - margins.top - margins.bottom) / self._height,
        )
        ax = self._figure.add_axes(box)
        ax.set_axis_off()
        ax.set_gid(f"panel-{number}")
        return FigurePanel(ax, x, top, width, height)

    def picture(self, name: str, title: str, caption: str, records: Sequence[Record]) -> Picture:
        """Return the sheet as files and as panels of a page; the same sheet gives the same bytes.

        Args:
            name: file name without its extension; must not come from data.
            title: title shown above the figure on the page, and in the files.
            caption: explanation of how to read the figure.
            records: plotted data, for the CSV.
        """
        at = (0 if self._margins.left > 30 else 14) / self._width, 1 - 24 / self._height
        self._figure.text(*at, plain(title), fontsize=13, fontweight="bold", color=INK)
        svg = self.saved("svg").decode().replace("font-family: 'DejaVu Sans'", _FONTS)
        pdf = self.saved("pdf")
        boxes = [(panel.x, self._height - panel.y, panel.width, panel.height) for panel in self.panels]
        return Picture(
            name=name,
            title=plain(title),
            caption=caption,
            width=round(self._size[0]),
            panels=cut(svg, name, [plain(label) for label in self._labels], boxes),
            svg=svg.encode(),
            pdf=pdf,
            csv=to_csv(records),
        )

    def saved(self, kind: Literal["svg", "pdf", "png"]) -> bytes:
        """Return the sheet as a file."""
        out = io.BytesIO()
        nothing: dict[str, dict[str, None]] = {
            "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
            "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
            "png": {"Software": None},
        }
        self._figure.savefig(out, format=kind, metadata=nothing[kind], dpi=144 if kind == "png" else 72)
        return out.getvalue()


def steps(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers between two ends: multiples of 1, 2 or 5 times a power of ten, at most ``most``."""
    if not high > low:
        return [low]
    power = 10.0 ** np.floor(np.log10((high - low) / most))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [float(round(i * step, 12)) + 0.0 for i in np.arange(first, last + 1)]
    return [low]


def spread(wanted: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Return positions near those wanted, in the same order, at least ``apart``, between ``low`` and ``high``.

    Neighbours that are too close are pooled around their mean until none are (pool-adjacent-violators).
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[tuple[float, int]] = []  # (middle, number of positions)
    for i in order:
        groups.append((wanted[i], 1))
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < apart * (groups[-1][1] + groups[-2][1]) / 2:
            (a, n), (b, m) = groups[-2:]
            groups[-2:] = [((a * n + b * m) / (n + m), n + m)]
    places = [middle + apart * (j - (n - 1) / 2) for middle, n in groups for j in range(n)]
    if places and places[-1] > high:
        for j in range(len(places) - 1, -1, -1):
            places[j] = min(places[j], high - apart * (len(places) - 1 - j))
    if places and places[0] < low:
        for j in range(len(places)):
            places[j] = max(places[j], low + apart * j)
    out = [0.0] * len(wanted)
    for place, i in zip(places, order, strict=True):
        out[i] = place
    return out
