"""Figure of the curves of some trials. Reads files only, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from tissuebench.common.files import write_aside
from tissuebench.errors import ConfigError
from tissuebench.results.records.curves import CURVES_FILE
from tissuebench.results.report.styles import method_styles
from tissuebench.sweep.view.lookup import Found, curves_of, variant_of

_KINDS = ("svg", "png", "pdf")


def draw_curves(trials: Sequence[Found], out: Path) -> Path:
    """Write one figure of all that the trials and their earlier stages logged, and return its path.

    Args:
        trials: the trials, each once.
        out: file to write; its ending says the format.

    Raises:
        ConfigError: another ending, or a trial has logged nothing yet.
        DataError: a file is damaged.
    """
    # matplotlib takes a second to import, so it is imported only for drawing.
    from tissuebench.results.report.figures.learning import STAGE_END, Learned, learning_sheet
    from tissuebench.results.report.figures.sheet import drawing

    kind = out.suffix.removeprefix(".").lower()
    if kind not in _KINDS:
        raise ConfigError(f"--out {out}: a figure is a file that ends in .{', .'.join(_KINDS)}")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: the folder does not exist")
    trainings = []
    for found in trials:
        curves = {
            f"{stage}{STAGE_END}{metric}" if stage else metric: points
            for stage, of_stage in curves_of(found).items()
            for metric, points in of_stage.items()
        }
        if not any(curves.values()):
            raise ConfigError(f"trial {found.key} has no curves: {found.folder / CURVES_FILE} is missing or empty")
        trainings.append(Learned(found.key, variant_of(found), curves))
    styles = method_styles(sorted({one.method for one in trainings}))
    with drawing():
        sheet = learning_sheet(trainings, styles)
        if sheet is None:
            raise ConfigError("these trials have logged neither a loss nor a validation")
        write_aside(out, sheet.saved(cast("Literal['svg', 'png', 'pdf']", kind)))
    return out
