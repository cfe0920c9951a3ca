"""Export of the tables and the data behind them to files for other programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pyarrow as pa

from tissuebench.common.files import write_aside
from tissuebench.errors import ConfigError, unknown_name
from tissuebench.results.case_metrics import CASE_METRICS
from tissuebench.results.export.relations import Relation, Value, of_rows
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.render.latex import to_latex
from tissuebench.results.tables.compute_cost import ComputeRow
from tissuebench.results.tables.label_efficiency import EfficiencyRow
from tissuebench.results.tables.leaderboard import METRICS, Leaderboard, LeaderboardRow, build
from tissuebench.results.tables.pairs import PairRow, pairs
from tissuebench.results.tables.panel import panels, run_of
from tissuebench.results.tables.ranks import rankings

_TRIAL = (
    *(("trial_id", pa.string()), ("dataset", pa.string()), ("method", pa.string()), ("budget", pa.string())),
    *(("minutes", pa.float64()), ("replicate", pa.int64()), ("seed", pa.int64())),
)


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
    for relation in relations(groups, boards):
        for form in formats:
            if form is not Format.LATEX:
                written.append(folder / f"{relation.name}.{form}")
                write_aside(written[-1], _encoded(relation, form))
    return written


def _encoded(relation: Relation, form: Format) -> bytes:
    if form is Format.CSV:
        return relation.to_csv()
    return relation.to_json() if form is Format.JSON else relation.to_parquet()


def relations(groups: Sequence[Sequence[TrialResult]], boards: Sequence[Leaderboard]) -> Iterator[Relation]:
    """Yield the relations one by one, as those of patients and slides are large."""
    everything = [result for results in groups for result in results]
    yield of_rows("leaderboard", LeaderboardRow, [row for board in boards for row in board.rows])
    yield of_rows(
        "pairs",
        PairRow,
        [row for results in groups for row in pairs(results, metrics=_overall(results))],
    )
    yield ranks(groups)
    yield label_efficiency([row for board in boards for row in board.efficiency])
    yield of_rows("compute", ComputeRow, [row for board in boards for row in board.compute])
    yield patient_scores(everything)
    yield slide_counts(everything)
    yield slide_areas(everything)


def _overall(results: Sequence[TrialResult]) -> list[str]:
    """Return the metrics of these results that are not specific to one class."""
    return [metric for metric in panels(results)[0].metrics if "/" not in metric]


@dataclass(frozen=True)
class ExportedRank:
    """A ``RankRow`` with the fields of its ``Ranking``; ``datasets`` are joined by commas."""

    datasets: str
    budget: str
    metric: str
    method: str
    rank: float | None
    n_datasets: int
    friedman_statistic: float | None
    friedman_p: float | None
    critical_difference: float | None


def ranks(groups: Sequence[Sequence[TrialResult]]) -> Relation:
    """Ranks of the methods over datasets in each overall metric; empty with fewer than ``ranks.LEAST_DATASETS``."""
    everything = [result for results in groups for result in results]
    rows = [
        ExportedRank(
            datasets=",".join(ranking.datasets),
            budget=ranking.budget,
            metric=ranking.metric,
            method=row.method,
            rank=_finite(row.rank),
            n_datasets=len(ranking.datasets),
            friedman_statistic=_finite(ranking.friedman_statistic),
            friedman_p=_finite(ranking.friedman_p),
            critical_difference=_finite(ranking.critical_difference),
        )
        for metric in METRICS
        for ranking in rankings(everything, metric=metric)
        for row in ranking.rows
    ]
    return of_rows("ranks", ExportedRank, rows)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def label_efficiency(rows: Sequence[EfficiencyRow]) -> Relation:
    """Relation with the fields of ``EfficiencyRow``; censored minutes are null.

    ``minutes_censored`` and its counterparts give the side: ``left`` if the smallest budget already suffices
    (``smallest`` minutes or fewer), ``right`` if the largest does not (more than ``largest``), or null.
    """
    plain = of_rows("efficiency", EfficiencyRow, rows)
    names: list[tuple[str, pa.DataType]] = []
    columns: dict[str, Sequence[Value]] = {}
    for field in plain.schema:
        names.append((field.name, field.type))
        columns[field.name] = plain.columns[field.name]
        if field.name in ("minutes", "minutes_low", "minutes_high"):
            values = [getattr(row, field.name) for row in rows]
            sides = [_censored(value) for value in values]
            columns[field.name] = [None if side else value for value, side in zip(values, sides, strict=True)]
            columns[f"{field.name}_censored"] = sides
            names.append((f"{field.name}_censored", pa.string()))
    return Relation(plain.name, pa.schema(names), columns)


def _censored(value: float | None) -> str | None:
    if value is None:
        return None
    return "right" if math.isinf(value) else None if value else "left"


def patient_scores(results: Sequence[TrialResult]) -> Relation:
    """Scores of each annotated test patient alone, one row per (trial, patient, metric).

    Null if the patient has no such class. Scores of cases are left out, as they are undefined for a single patient.
    """
    schema = pa.schema([*_TRIAL, ("patient", pa.string()), ("metric", pa.string()), ("score", pa.float64())])
    trials = {(one.dataset, one.method, one.budget, *run_of(one)): one for one in results}
    columns: dict[str, list[Value]] = {name: [] for name in schema.names}
    for panel in panels(results):
        own = [j for j, metric in enumerate(panel.metrics) if metric not in CASE_METRICS]
        metrics = [panel.metrics[j] for j in own]
        patients = [patient for patient, there in zip(panel.patients, panel.annotated, strict=True) if there]
        alone = np.eye(len(panel.patients))[panel.annotated]
        for cell in panel.cells.values():
            by_patient = cell.scores(alone)[..., own]
            for i, run in enumerate(cell.runs):
                scores = by_patient[:, i].ravel()
                _repeat(columns, trials[panel.dataset, cell.method, cell.budget, *run], scores.size)
                columns["patient"] += [patient for patient in patients for _ in metrics]
                columns["metric"] += metrics * len(patients)
                columns["score"] += [None if math.isnan(score) else score for score in scores.tolist()]
    return Relation("patients", schema, columns)


def slide_counts(results: Sequence[TrialResult]) -> Relation:
    """Confusion counts of each test slide, one row per (trial, slide, truth, predicted) with nonzero pixels."""
    named = [(name, pa.string()) for name in ("patient", "slide", "truth", "predicted")]
    schema = pa.schema([*_TRIAL, *named, ("pixels", pa.int64())])
    columns: dict[str, list[Value]] = {name: [] for name in schema.names}
    for trial in sorted(results, key=lambda one: (one.dataset, one.method, one.budget, one.replicate, one.seed)):
        slides, truths, predicted = (axis.tolist() for axis in np.nonzero(trial.counts))
        _repeat(columns, trial, len(slides))
        columns["patient"] += [trial.patient_ids[i] for i in slides]
        columns["slide"] += [trial.slide_ids[i] for i in slides]
        columns["truth"] += [trial.classes[i] for i in truths]
        columns["predicted"] += [trial.classes[i] for i in predicted]
        columns["pixels"] += trial.counts[np.nonzero(trial.counts)].tolist()
    return Relation("slides", schema, columns)


def slide_areas(results: Sequence[TrialResult]) -> Relation:
    """Predicted area of each class over the tissue of each test slide with a diagnosis, (trial, slide, class) a row."""
    named = [(name, pa.string()) for name in ("patient", "slide", "diagnosis", "class")]
    schema = pa.schema([*_TRIAL, *named, ("pixels", pa.int64())])
    columns: dict[str, list[Value]] = {name: [] for name in schema.names}
    for trial in sorted(results, key=lambda one: (one.dataset, one.method, one.budget, one.replicate, one.seed)):
        slides = [i for i, areas in enumerate(trial.areas) if trial.slide_diagnoses[i] and areas.any()]
        n = len(trial.classes)
        _repeat(columns, trial, len(slides) * n)
        columns["patient"] += [trial.patient_ids[i] for i in slides for _ in range(n)]
        columns["slide"] += [trial.slide_ids[i] for i in slides for _ in range(n)]
        columns["diagnosis"] += [trial.slide_diagnoses[i] for i in slides for _ in range(n)]
        columns["class"] += list(trial.classes) * len(slides)
        columns["pixels"] += trial.areas[slides].ravel().tolist()
    return Relation("areas", schema, columns)


def _repeat(columns: dict[str, list[Value]], trial: TrialResult, n: int) -> None:
    for name, _ in _TRIAL:
        columns[name] += [getattr(trial, name)] * n
