"""How methods look: one colour, marker and dash for each, the same in every figure of a report.

Colours are of Okabe & Ito (2008), without black, which is ink, and yellow, which is too pale for lines on white.
Neither colour nor shape is ever the only carrier: a marker belongs to one method (up to eleven of them).
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
"""What stands for a colour on the page, where a reader may want it dark."""

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
class Look:
    """A method in a figure.

    Attributes:
        name: short enough for a label.
        dash: a line style of matplotlib.
    """

    name: str
    color: str
    marker: str
    dash: tuple[float, tuple[float, ...] | None]


def looks(arms: Sequence[str]) -> dict[str, Look]:
    """By arm. ``supervised`` and ``full`` are ink: they are what the others are measured by."""
    names = labels(arms)
    found = {}
    ideas = [arm for arm in sorted(arms) if arm not in (LOWER, UPPER)]
    for arm in sorted(arms):
        if arm in (LOWER, UPPER):
            dash: tuple[float, tuple[float, ...] | None] = (0, (4, 2)) if arm == LOWER else (0, (1, 2))
            found[arm] = Look(names[arm], INK, "s" if arm == LOWER else "*", dash)
        else:
            i = ideas.index(arm)
            found[arm] = Look(
                names[arm], _COLORS[i % 6], _MARKERS[i % len(_MARKERS)], _DASHES[i // len(_COLORS) % len(_DASHES)]
            )
    return found


def labels(arms: Sequence[str]) -> dict[str, str]:
    """Short names; of several arms of one method only the settings that tell them apart, or a number."""
    short, _ = short_names(set(arms))
    found = {}
    for arm, name in short.items():
        method, bracket, rest = name.partition("[")
        siblings = sorted(other for other in short if other.partition("[")[0] == method)
        if bracket and len(siblings) > 1:
            common = set.intersection(*(set(other.partition("[")[2][:-1].split(",")) for other in siblings))
            own = [setting for setting in rest[:-1].split(",") if setting not in common]
            name = f"{method} [{', '.join(own)}]"
            if len(name) > _LONGEST:
                name = f"{brief(method, _LONGEST - 4)} #{siblings.index(arm) + 1}"
        found[arm] = brief(name, _LONGEST)
    if len(set(found.values())) < len(found):  # what was cut off told them apart
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
}


def metric_name(metric: str) -> str:
    """As people write it."""
    kind, slash, label = metric.partition("/")
    return _NAMES.get(metric) or ({"dice": "Dice", "iou": "IoU"}.get(kind) or _NAMES.get(kind, kind)) + slash + label


def settings(arms: Sequence[str]) -> dict[str, str]:
    """What the label of an arm leaves out, by label."""
    return {
        name: plain(arm) if "[" not in arm else plain(arm.partition("[")[2][:-1].replace(",", ", "))
        for arm, name in labels(arms).items()
        if name != arm
    }


def plain(text: str) -> str:
    """The text without characters that XML forbids, on one line."""
    return _UNPRINTABLE.sub(" ", text)


def brief(text: str, longest: int) -> str:
    """The text, or its beginning and an ellipsis."""
    text = plain(text)
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"
