"""Export of the tables and the data behind them to files for other programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path

import pandas as pd

from tissuebench.common.files import write_aside
from tissuebench.errors import ConfigError, unknown_name
from tissuebench.results.frames.rows import label_efficiency, of_rows, ranks
from tissuebench.results.frames.trials import patient_scores, slide_areas, slide_counts, slide_objects
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.render.latex import to_latex
from tissuebench.results.tables.compute_cost import ComputeRow
from tissuebench.results.tables.leaderboard import Leaderboard, LeaderboardRow, build
from tissuebench.results.tables.pairs import PairRow, pairs
from tissuebench.results.tables.panel import panels


class Format(StrEnum):
    """Format of the exported files; LaTeX covers the leaderboard only."""

    CSV = "csv"
    LATEX = "latex"
    PARQUET = "parquet"
    JSON = "json"


def formats_of(names: Iterable[str]) -> list[Format]:
    """Return the formats of these names, without duplicates.

    Raises:
        ConfigError: a format does not exist (the message names the nearest one), or none is named.
    """
    known = [form.value for form in Format]
    asked = list(dict.fromkeys(names))
    for name in asked:
        if name not in known:
            raise ConfigError(f"--format: {unknown_name('format', name, known)}")
    if not asked:
        raise ConfigError(f"--format: names none; known: {', '.join(known)}")
    return [Format(name) for name in asked]


def export(groups: Sequence[Sequence[TrialResult]], folder: Path, formats: Sequence[Format]) -> list[Path]:
    """Write every relation in every format, each file atomically; returns the paths.

    Args:
        groups: comparable results, one group per data set.
        folder: created if missing; files of the same name are replaced.
        formats: at least one.
    """
    boards = [build(results) for results in groups]
    written = []
    if Format.LATEX in formats:
        written.append(folder / "leaderboard.tex")
        write_aside(written[-1], to_latex(boards).encode())
    if set(formats) == {Format.LATEX}:
        return written
    for name, frame in relations(groups, boards):
        for form in formats:
            if form is not Format.LATEX:
                written.append(folder / f"{name}.{form}")
                write_aside(written[-1], encoded(frame, form))
    return written


def encoded(frame: pd.DataFrame, form: Format) -> bytes:
    """Return the frame as CSV, as a JSON list of objects, one per line, or as parquet; missing values are null.

    Raises:
        ValueError: a value is infinite, which JSON does not support.
    """
    if form is Format.CSV:
        return bytes(frame.to_csv(index=False, lineterminator="\n").encode())
    if form is Format.PARQUET:
        return bytes(frame.to_parquet(index=False))
    columns = {name: frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in frame}
    encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode  # pandas' own rounds to 15 decimals
    lines = ",\n ".join(encode(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))
    return f"[{lines}]\n".encode()


def relations(
    groups: Sequence[Sequence[TrialResult]], boards: Sequence[Leaderboard]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield names and contents of the files one by one, as those of patients and slides are large."""
    everything = [result for results in groups for result in results]
    yield "leaderboard", of_rows(LeaderboardRow, [row for board in boards for row in board.rows])
    compared = [row for results in groups for row in pairs(results, metrics=_overall(results))]
    yield "pairs", of_rows(PairRow, compared)
    yield "ranks", ranks(groups)
    yield "efficiency", label_efficiency([row for board in boards for row in board.efficiency])
    yield "compute", of_rows(ComputeRow, [row for board in boards for row in board.compute])
    yield "patients", patient_scores(everything)
    yield "slides", slide_counts(everything)
    yield "areas", slide_areas(everything)
    if any(result.objects is not None for result in everything):
        yield "objects", slide_objects(everything)


def _overall(results: Sequence[TrialResult]) -> list[str]:
    """Return the metrics of these results that are not specific to one class."""
    return [metric for metric in panels(results)[0].metrics if "/" not in metric]
