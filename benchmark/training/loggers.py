"""Lightning loggers of a stage: ``metrics.csv`` always, TensorBoard on request. W&B is fed from the CSV elsewhere.

Both begin anew, or after the checkpoint's step in a resumed fit, so that each step stands there once.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from tissuebench.common.files import write_aside
from tissuebench.errors import DataError
from tissuebench.plans.schema import Tracking
from tissuebench.results.records.curves import CURVES_FILE, STEP, read_curves

OpenLoggers = Callable[[Path, int], list[Logger]]
"""Callable that returns the loggers of a fit, from its folder and the number of steps finished before."""


def loggers_of(tracking: Collection[Tracking]) -> OpenLoggers:
    """Return the function that opens the loggers of a fit.

    Args:
        tracking: services to log to; W&B needs no logger here.
    """

    def opened(folder: Path, done: int) -> list[Logger]:
        loggers: list[Logger] = [CurvesLogger(folder, done)]
        if Tracking.TENSORBOARD in tracking:
            # Events after the checkpoint, of steps that are trained again, are hidden by ``purge_step``.
            loggers.append(TensorBoardLogger(folder, name="tensorboard", version="", purge_step=done + 1))
        return loggers

    return opened


CURVES_ONLY = loggers_of(())


class CurvesLogger(Logger):
    """Writes ``metrics.csv`` into a folder, see ``results.records.curves``; every value is on disk when logged.

    Lightning's ``CSVLogger`` deletes the file of a run that is resumed, and writes two rows for two calls of one step.

    Args:
        folder: folder of the trial or stage.
        done: finished steps; what an earlier attempt logged after them is dropped.
    """

    def __init__(self, folder: Path, done: int) -> None:
        super().__init__()
        self._path = folder / CURVES_FILE
        self._columns: list[str] = []
        self._rows: dict[int, dict[str, float]] = {}
        if done:
            self._restore(folder, done)
        if self._rows:
            self._write_all()
        else:
            self._path.unlink(missing_ok=True)

    @property
    def name(self) -> str:
        """Return the name of the logger."""
        return "curves"

    @property
    def version(self) -> int:
        """Return 0: there is one file per folder."""
        return 0

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - Lightning's
        """Do nothing: the settings are part of the trial."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row, or add to that of the same step."""
        if step is None:
            raise ValueError("a row needs its step")
        new = [name for name in metrics if name not in self._columns]
        appended = step not in self._rows and not new
        self._columns += new
        self._rows.setdefault(step, {}).update(metrics)
        if appended:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._text([step]))
        else:
            self._write_all()

    def _restore(self, folder: Path, done: int) -> None:
        try:
            curves = read_curves(folder)
        except DataError as error:
            aside = self._path.with_name(self._path.name + ".damaged")
            self._path.replace(aside)
            warnings.warn(f"{error}; it is now {aside.name}, and the curves begin at step {done}", stacklevel=3)
            return
        self._columns = list(curves)
        for name, points in curves.items():
            for step, value in points:
                if step <= done:
                    self._rows.setdefault(step, {})[name] = value

    def _write_all(self) -> None:
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow([STEP, *self._columns])
        write_aside(self._path, (header.getvalue() + self._text(sorted(self._rows))).encode())

    def _text(self, steps: list[int]) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        for step in steps:
            row = self._rows[step]
            writer.writerow([step, *(f"{row[name]:.9g}" if name in row else "" for name in self._columns)])
        return out.getvalue()
