"""Styles of methods: one colour, marker and dash per method, the same in every figure of a report.

Colours are from Okabe & Ito (2008), without black, which is used as ink, and yellow, too pale for lines on white.
Colour is never the only cue: each method also has its own marker (up to eleven methods).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tissuebench.results.render.method_names import short_names
from tissuebench.results.tables.leaderboard import LOWER, UPPER

INK, SOFT, LINE, FAINT, PAPER = "#1d1c22", "#64616d", "#d8d5de", "#efedf2", "#fefefe"
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
VARIABLES = {
    INK: "--ink", SOFT: "--soft", LINE: "--line", FAINT: "--faint", PAPER: "--card",
    BLUE: "--blue", VERMILLION: "--vermillion", GREEN: "--green", PURPLE: "--purple", ORANGE: "--orange", SKY: "--sky",
}  # fmt: skip
"""CSS variables that replace the colours on the page, which has a dark mode."""

_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
_MARKERS = ("o", "^", "D", "v", "P", "X", "p", "<", ">", "h", "d")
_DASHES: tuple[tuple[float, tuple[float, ...] | None], ...] = (
    (0, None),
    (0, (5, 1.8)),
    (0, (1.2, 1.5)),
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+")
_LONGEST = 30


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """Style of a method in figures.

    Attributes:
        name: short enough for a label.
        dash: matplotlib line style.
    """

    name: str
    color: str
    marker: str
    dash: tuple[float, tuple[float, ...] | None]


def method_styles(arms: Sequence[str]) -> dict[str, MethodStyle]:
    """Return styles by method variant. ``supervised`` and ``full`` are in ink, as references for the others."""
    names = labels(arms)
    found = {}
    ideas = [arm for arm in sorted(arms) if arm not in (LOWER, UPPER)]
    for arm in sorted(arms):
        if arm in (LOWER, UPPER):
            dash: tuple[float, tuple[float, ...] | None] = (0, (4, 2)) if arm == LOWER else (0, (1, 2))
            found[arm] = MethodStyle(names[arm], INK, "s" if arm == LOWER else "*", dash)
        else:
            i = ideas.index(arm)
            found[arm] = MethodStyle(
                names[arm], _COLORS[i % 6], _MARKERS[i % len(_MARKERS)], _DASHES[i // len(_COLORS) % len(_DASHES)]
            )
    return found


def labels(arms: Sequence[str]) -> dict[str, str]:
    """Names by method variant as in ``short_names``, short enough for a figure."""
    found = {arm: brief(name, _LONGEST) for arm, name in short_names(set(arms), _LONGEST)[0].items()}
    if len(set(found.values())) < len(found):  # names became equal by truncation
        found = {arm: f"{brief(name, _LONGEST - 5)} #{i + 1}" for i, (arm, name) in enumerate(found.items())}
    return found


_NAMES = {
    "miou": "mIoU",
    "fwiou": "frequency-weighted IoU",
    "pixel_accuracy": "pixel accuracy",
    "boundary_f1": "boundary F1",
    "ece": "ECE",
    "area_error": "area error",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "region_dice": "region Dice",
    "region_f1": "region F1",
    "region_aji": "region AJI",
}


def metric_name(metric: str) -> str:
    """Return the display name of a metric."""
    kind, slash, label = metric.partition("/")
    return _NAMES.get(metric) or ({"dice": "Dice", "iou": "IoU"}.get(kind) or _NAMES.get(kind, kind)) + slash + label


def settings(arms: Sequence[str]) -> dict[str, str]:
    """Settings that the label of a method variant leaves out, by label; the variant itself where that is cut."""
    short, said = short_names(set(arms), _LONGEST)
    return {label: plain(said.get(short[arm], arm)) for arm, label in labels(arms).items() if label != arm}


def plain(text: str) -> str:
    """Return the text on one line, without characters that XML forbids."""
    return _UNPRINTABLE.sub(" ", text)


def brief(text: str, longest: int) -> str:
    """Shorten the text to ``longest`` characters, ending in an ellipsis if cut."""
    text = plain(text)
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"
