"""Curves of a training: the values logged at each step, in ``metrics.csv`` in the folder of a trial or stage.

The first column is ``step``, the number of finished steps; each further column is one metric, empty where it was not
logged. Steps increase and occur once, also in a training that was killed and resumed. The file grows by whole lines
while it is written, and is replaced as a whole when a metric appears for the first time.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tissuebench.errors import DataError

CURVES_FILE = "metrics.csv"
STEP = "step"
LOSS = "train/loss"
_END_BYTES = 4096

Point = tuple[int, float]
Curves = Mapping[str, tuple[Point, ...]]
"""Points (step, value) by metric, in the order of the file; values may be nan or infinite."""


def read_curves(folder: Path) -> dict[str, tuple[Point, ...]]:
    """Return the curves of the trial or stage in ``folder``, also while it trains; none if nothing was logged.

    An incomplete last line, which another process may be writing, is ignored.

    Raises:
        DataError: the file is damaged.

    Examples:
        >>> curves = read_curves(Path("runs/trials/1c9ffe2a01234567"))
        >>> step, loss = curves["train/loss"][-1]
    """
    path = folder / CURVES_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it: no result depends on it") from None
    complete, _, _ = text.rpartition("\n")
    lines = csv.DictReader(io.StringIO(complete))
    points: dict[str, list[Point]] = {name: [] for name in lines.fieldnames or () if name != STEP}
    before = -1
    try:
        for line in lines:
            step = int(line.pop(STEP))
            if step <= before:
                raise ValueError(f"step {step} follows step {before}")
            before = step
            for name, value in line.items():
                if value:
                    points[name].append((step, float(value)))
    except (KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: line {lines.line_num}: {reason}; delete it: no result depends on it") from None
    return {name: tuple(of_metric) for name, of_metric in points.items()}


def last_loss(curves: Curves) -> Point | None:
    """Return the last finite training loss and its step; None before the first."""
    return next(((step, loss) for step, loss in reversed(curves.get(LOSS, ())) if math.isfinite(loss)), None)


def read_last_loss(folder: Path) -> Point | None:
    """Return the last finite training loss of a task and its step, from the end of its file alone; None if unknown.

    For displays that look at many running tasks every second: a damaged or missing file is no loss.
    """
    try:
        with (folder / CURVES_FILE).open("rb") as file:
            header = file.readline()
            file.seek(max(len(header), file.seek(0, os.SEEK_END) - _END_BYTES))
            *lines, _ = file.read().split(b"\n")
        names = next(csv.reader([header.decode()]))
        step, loss = names.index(STEP), names.index(LOSS)
    except (OSError, UnicodeDecodeError, StopIteration, ValueError):
        return None
    for line in reversed(lines):
        cells = line.split(b",")  # numbers: nothing is quoted; the first line may have lost its beginning
        if len(cells) == len(names) and cells[loss]:
            with suppress(ValueError):
                if math.isfinite(value := float(cells[loss])):
                    return int(cells[step]), value
    return None
