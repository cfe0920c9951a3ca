"""``tissuebench results``: leaderboard, comparisons, exports and report of stored results."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tissuebench.cli.best import best
from tissuebench.cli.common import AS_JSON, EXISTING_HOME, Commands, example, listed, stdout
from tissuebench.errors import DataError, TissueBenchError, unknown_name

if TYPE_CHECKING:
    from tissuebench.results.records.trial_result import TrialResult
    from tissuebench.results.tables.against_reference import Comparison
    from tissuebench.results.tables.comparable import Group
    from tissuebench.results.tables.leaderboard import Leaderboard
    from tissuebench.results.tables.pairs import PairRow
    from tissuebench.results.tables.ranks import Ranking

_DATASET = click.option("--dataset", default=None, help="Only this dataset.")
_NOTHING = "no results yet; start with 'tissuebench run --method complementary'"


@click.group(cls=Commands, epilog=example("tissuebench results table"))
def results() -> None:
    """Print, compare, export and report stored results."""


@results.command(epilog=example("tissuebench results table --dataset synthetic --csv table.csv"))
@_DATASET
@click.option("--all", "everything", is_flag=True, help="Also show results under other settings: part, plan.")
@AS_JSON
@click.option("--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write a CSV file.")
@click.option("--svg", "svg_path", type=click.Path(dir_okay=False, path_type=Path), help="Also draw an SVG file.")
@EXISTING_HOME
def table(
    dataset: str | None,
    everything: bool,
    as_json: bool,
    csv_path: Path | None,
    svg_path: Path | None,
    home: Path,
) -> None:
    """Print the leaderboard: scores with intervals, paired differences to the lower bound.

    With results on five or more datasets, it ends with average ranks of the methods over datasets.
    """
    from tissuebench.results.tables.comparable import with_remark
    from tissuebench.results.tables.leaderboard import build

    groups = _stored(home, dataset, everything)
    boards = [with_remark(build(group.results), group) for group in groups]
    print_boards(boards, as_json, csv_path, svg_path, [] if as_json else _rankings(groups))


@results.command(epilog=example("tissuebench results compare complementary mean_teacher --budget masks:3p"))
@click.argument("methods", nargs=-1)
@click.option("--budget", default=None, help="Budget of the reference (default: masks:all), or of all pairs.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    default=("miou", "balanced_accuracy"),
    show_default=True,
    help="Repeat or write a,b.",
)
@click.option("--all-pairs", is_flag=True, help="Compare all methods in pairs.")
@_DATASET
@AS_JSON
@EXISTING_HOME
def compare(
    methods: tuple[str, ...],
    budget: str | None,
    metrics: tuple[str, ...],
    all_pairs: bool,
    dataset: str | None,
    as_json: bool,
    home: Path,
) -> None:
    """Print paired differences between METHODS.

    Without METHODS everything is compared with full; with one, everything is compared with it; with two or more,
    they are compared in pairs at every budget that both have.

    Differences come with 95 % intervals and p, alone and with Holm's adjustment for the comparisons printed at a
    budget. Add the settings in brackets if several variants of a method have results.
    """
    from tissuebench.results.render.terminal import render_comparisons

    if all_pairs and len(methods) == 1:
        raise TissueBenchError(f"compare: name another method to pair {methods[0]} with, or leave out --all-pairs")
    asked, console = listed(metrics), stdout()
    said: list[dict[str, object]] = []
    groups = [group.results for group in _stored(home, dataset)]
    for group in groups:
        of_group = _known_metrics(group, asked)
        if all_pairs or len(methods) > 1:
            rows = _pairs(group, methods, budget, of_group)
            said += [vars(row) for row in rows]
            if not as_json:
                from tissuebench.results.render.pairs import render_pairs

                render_pairs(rows, console)
        else:
            compared = _to_reference(group, methods, budget, of_group)
            said += [vars(row) for row in compared]
            if not as_json:
                render_comparisons(compared, of_group, console)
    if as_json:
        click.echo(json.dumps(said, indent=1, allow_nan=False))
    elif not groups:
        console.print(_NOTHING)


results.add_command(best)


@results.command(epilog=example("tissuebench results export --format csv,latex --out tables"))
@click.option(
    "--format",
    "formats",
    multiple=True,
    default=("csv,latex,parquet",),
    show_default=True,
    help="csv, latex, parquet, json; repeat or write a,b.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="HOME/runs/export",
    help="Folder to write to; created if needed.",
)
@_DATASET
@EXISTING_HOME
def export(formats: tuple[str, ...], out: Path | None, dataset: str | None, home: Path) -> None:
    """Write the data behind the tables, one file each.

    \b
    leaderboard   one row per (dataset, method, budget, metric); a table in LaTeX
    pairs         differences between all pairs of methods
    ranks         of the methods over datasets, from five datasets on
    efficiency    scores over minutes, minutes to 95 % of full
    compute       steps, samples, seconds, memory
    patients      scores of each annotated test patient in each trial
    slides        confusion counts of each test slide in each trial
    areas         predicted area of each class on each test slide with a diagnosis in each trial
    """  # noqa: D301 - \b is click's mark for lines to be kept as they are
    from tissuebench.results.export.export import export as export_results
    from tissuebench.results.export.export import formats_of

    asked = formats_of(listed(formats))
    groups = [group.results for group in _stored(home, dataset)]
    if not groups:
        raise DataError(_NOTHING if dataset is None else f"no results of dataset {dataset!r}")
    for path in export_results(groups, home / "runs" / "export" if out is None else out, asked):
        click.echo(path)


@results.command(epilog=example("tissuebench results report --out report"))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="HOME/runs/report",
    help="Folder to create; an earlier report there is replaced.",
)
@_DATASET
@click.option("--all", "everything", is_flag=True, help="Also show results under other settings: part, plan.")
@EXISTING_HOME
def report(out: Path | None, dataset: str | None, everything: bool, home: Path) -> None:
    """Write an HTML report that works offline.

    It has tables, curves, paired differences, ranks, patients, classes, calibration, costs, example tiles and
    provenance, with all figures as SVG and PDF.
    """
    from tissuebench.results.report.write import write_report
    from tissuebench.sweep.view.report_subjects import subjects

    found = subjects(home, _stored(home, dataset, everything))
    if not found:
        raise DataError(_NOTHING if dataset is None else f"no results of dataset {dataset!r}")
    click.echo(write_report(home / "runs" / "report" if out is None else out, found))


def print_boards(
    boards: Sequence[Leaderboard],
    as_json: bool,
    csv_path: Path | None = None,
    svg_path: Path | None = None,
    rankings: Sequence[Ranking] = (),
) -> None:
    """Print tables, then ranks, or only the rows as JSON; write the CSV and SVG files asked for."""
    from tissuebench.results.render.terminal import render, to_json

    rows = [row for board in boards for row in board.rows]
    if csv_path is not None:
        from tissuebench.results.frames.rows import leaderboard_csv

        csv_path.write_text(leaderboard_csv(rows))
    if as_json:
        click.echo(to_json(rows))
        return
    console = stdout(record=svg_path is not None)
    if not boards:
        console.print(_NOTHING)
    for board in boards:
        render(board, console)
    if rankings:
        from tissuebench.results.render.ranks import render_rankings

        render_rankings(rankings, console)
    if svg_path is not None:
        svg = console.export_svg(title="tissuebench results table")
        svg_path.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))  # they would be fetched from afar


def _stored(home: Path, dataset: str | None, everything: bool = False) -> tuple[Group, ...]:
    """Return the groups to show; results that are not among them are offered in a line on standard error."""
    from tissuebench.results.records.result_store import ResultStore
    from tissuebench.results.tables.comparable import results_folder, select

    selected = select(ResultStore(results_folder(home)), dataset, everything)
    for line in selected.notes:
        click.echo(line, err=True)
    return selected.groups


def _rankings(groups: Sequence[Group]) -> list[Ranking]:
    """Return ranks over the main group of each dataset."""
    from tissuebench.results.tables.ranks import rankings

    main: dict[str, Sequence[TrialResult]] = {}
    for group in groups:
        main.setdefault(group.dataset, group.results)
    return rankings([result for results in main.values() for result in results])


def _known_metrics(group: Sequence[TrialResult], asked: Sequence[str]) -> list[str]:
    from tissuebench.results.case_metrics import CASE_METRICS
    from tissuebench.results.tables.panel import panels

    known = panels(group)[0].metrics
    strange = next((name for name in asked if name not in {*known, *CASE_METRICS}), None)
    if strange is not None:  # not every dataset has diagnoses
        raise TissueBenchError(f"--metric: {unknown_name('metric', strange, known)}")
    return [name for name in asked if name in known]


def _to_reference(
    group: Sequence[TrialResult], methods: Sequence[str], budget: str | None, metrics: Sequence[str]
) -> list[Comparison]:
    from tissuebench.results.tables.against_reference import compare as compare_results

    reference = methods[0] if methods else "full"
    compared = compare_results(group, reference=reference, reference_budget=budget or "masks:all")
    return [row for row in compared if row.metric in metrics]


def _pairs(
    group: Sequence[TrialResult], methods: Sequence[str], budget: str | None, metrics: Sequence[str]
) -> list[PairRow]:
    """Compare these methods in pairs, or all if none is named."""
    from tissuebench.results.render.method_names import find_arm
    from tissuebench.results.tables.pairs import pairs

    dataset, arms = group[0].dataset, sorted({result.method for result in group})
    chosen = {find_arm(name, arms, f"dataset {dataset}") for name in methods} or set(arms)
    if len(chosen) < 2:
        raise DataError(f"dataset {dataset}: compare two different methods; there are {', '.join(arms)}")
    rows = pairs([result for result in group if result.method in chosen], metrics=metrics)
    budgets = sorted({row.budget for row in rows})
    if budget is not None:
        rows = [row for row in rows if row.budget == budget]
    if not rows:
        where = f"at {budget}" if budget else "at any budget"
        hint = f"; there are some at {', '.join(budgets)}" if budgets else ""
        raise DataError(f"dataset {dataset}: no two of {', '.join(sorted(chosen))} have results {where}{hint}")
    return rows
