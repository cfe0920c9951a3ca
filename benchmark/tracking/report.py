"""The W&B Report of a table: its content, kept as JSON, and the process that saves it on the server.

A report needs a server. Its definition is therefore written to ``runs/wandb/reports`` first, and sent once the runs it
shows have been sent. There is one report per table, updated in place. It is found again by its id, or by the line of
its description that names the leaderboard run: if an answer is lost, no second report is created.

It is saved with ``wandb-workspaces`` (extra ``wandb-report``), in a separate process (``main``), which can be ended.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tissuebench.common.hashing import content_hash

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import interface as wr

SCORE = "miou"  # score in bars and curves
CURVES = "curves"  # key of the chart of the leaderboard run
_TITLE_CHARACTERS = 128  # W&B's limit
_WIDE, _LOW, _HIGH = 24, 8, 14  # in units of a panel grid

_INTRO = """\
{n_trials} finished trials on **{dataset}**. Each trial is a run of this project: one method, \
one budget of labels, one draw of the budget, one seed. The report is written by TissueBench {version}, and written \
again when a number changes; what is edited here is then lost.

**How to read it.** The table below and the one further down have the numbers: a mean over trials, with its 95 % \
interval over draws, seeds and patients. `*` marks all members of a statistical tie for the best at \
that budget. Bars and dots are drawn by W&B from the single runs: their whiskers are the standard error over runs, \
which knows nothing of patients and pairs, and is not that interval. Budgets are in minutes of an annotator."""

_PARTS = {
    "leaderboard": "Every score of every method at every budget. For `ece` and `area_error` less is better.",
    "pairs": "Differences of two methods at one budget, on the same draws, seeds and patients.",
    "efficiency": "Mean height of each curve over log minutes, and the minutes to 95 % of full supervision.",
    "overlays": "The same tiles of test slides for every method: switch masks on and off in the pictures.",
}


@dataclass(frozen=True, slots=True)
class Budget:
    """A label budget, and its cost in minutes of an annotator if known."""

    spec: str
    minutes: float | None


@dataclass(frozen=True, slots=True)
class Score:
    """Mean ``SCORE`` of a method at a budget, its 95 % interval, and whether it is tied for the best there."""

    method: str
    budget: str
    mean: float
    low: float | None
    high: float | None
    tie: bool


@dataclass(frozen=True, slots=True)
class ReportDefinition:
    """Everything that determines a report.

    Attributes:
        run_id: id of the leaderboard run.
        entity: "" for the default entity of the account that sends it.
        comparison: value that all runs of one table share in their config under this name.
        content: hash of the content; equal if the leaderboard run is.
        budgets: budgets, by minutes.
        tables: keys of the tables of the leaderboard run.
        has_curves: whether the run has ``CURVES``.
    """

    run_id: str
    project: str
    entity: str
    version: str
    dataset: str
    comparison: str
    content: str
    n_trials: int
    budgets: Sequence[Budget]
    scores: Sequence[Score]
    tables: Sequence[str]
    has_curves: bool

    def to_json(self) -> str:
        """Return the definition as JSON, as kept on disk."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> ReportDefinition:
        """Parse the output of ``to_json``.

        Raises:
            ValueError, TypeError, KeyError: the text is something else.
        """
        fields: dict[str, Any] = json.loads(text)
        fields["budgets"] = [Budget(**budget) for budget in fields["budgets"]]
        fields["scores"] = [Score(**score) for score in fields["scores"]]
        return cls(**fields)

    @property
    def hash(self) -> str:
        """Hash of the whole definition."""
        return content_hash(json.loads(self.to_json()))

    @property
    def title(self) -> str:
        """Title, the same for all reports on a data set."""
        return f"TissueBench on {self.dataset}"[:_TITLE_CHARACTERS]

    @property
    def description(self) -> str:
        """Description that names the leaderboard run, by which the report is found again."""
        return f"Weak supervision on {self.dataset}, from {self.run_id}"


def markdown(definition: ReportDefinition) -> str:
    """Return an introduction, and the scores at the time of saving in case a panel does not load."""
    methods = list(dict.fromkeys(score.method for score in definition.scores))
    cells = {(score.method, score.budget): _cell(score) for score in definition.scores}
    specs = [budget.spec for budget in definition.budgets]
    head = ["mIoU", *map(_heading, definition.budgets)]
    rows = [[f"`{method}`", *(cells.get((method, spec), "") for spec in specs)] for method in methods]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
    intro = _INTRO.format(n_trials=definition.n_trials, dataset=definition.dataset, version=definition.version)
    return f"{intro}\n\n{table}"


def build(definition: ReportDefinition, entity: str) -> wr.Report:
    """Build the report; this queries the server for the project of its runs."""
    from wandb_workspaces import expr
    from wandb_workspaces.reports.v2 import interface as wr

    def runs(job_type: str, name: str, budget: str | None = None) -> wr.Runset:
        filters: list[expr.FilterExpr] = [
            expr.Config("comparison") == definition.comparison,
            expr.Metric("JobType") == job_type,
        ]
        if budget is not None:
            filters.append(expr.Config("budget") == budget)
        return wr.Runset(
            entity=entity,
            project=definition.project,
            name=name,
            filters=filters,
            order=[wr.OrderBy(wr.SummaryMetric(_of_test(SCORE)), ascending=False)],
        )

    def grid(runset: wr.Runset, *panels: wr.PanelTypes) -> wr.PanelGrid:
        return wr.PanelGrid(runsets=[runset], panels=list(panels), hide_run_sets=True)

    blocks: list[Any] = [wr.MarkdownBlock(text=markdown(definition)), wr.TableOfContents()]
    blocks.append(wr.H2(text="Methods at each budget"))
    for budget in definition.budgets:
        bars = wr.BarPlot(
            title=f"mIoU at {_heading(budget)}",
            metrics=[_of_test(SCORE)],
            groupby=wr.Config("method"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
            layout=wr.Layout(w=_WIDE, h=_LOW),
        )
        blocks += [wr.H3(text=_heading(budget)), grid(runs("train", budget.spec, budget.spec), bars)]
    blocks.append(wr.H2(text="Score over minutes"))
    if definition.has_curves:
        curves = wr.CustomChart(
            query={"summaryTable": {"tableKey": f"{CURVES}_table"}},
            chart_name="wandb/lineseries/v0",
            chart_fields={"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"},
            chart_strings={"title": "mean mIoU over minutes of an annotator", "xname": "minutes"},
            layout=wr.Layout(w=_WIDE, h=_LOW),
        )
        blocks.append(grid(runs("leaderboard", "leaderboard"), curves))
    dots = wr.ScatterPlot(
        title="mIoU of each trial over minutes of an annotator",
        x=wr.Config("minutes"),
        y=wr.SummaryMetric(_of_test(SCORE)),
        layout=wr.Layout(w=_WIDE, h=_LOW),
    )
    blocks.append(grid(runs("train", "trials"), dots))
    for table in definition.tables:
        panel = wr.WeavePanelSummaryTable(table_name=table, layout=wr.Layout(w=_WIDE, h=_HIGH))
        blocks += [wr.H2(text=table.capitalize()), wr.MarkdownBlock(text=_PARTS[table])]
        blocks.append(grid(runs("leaderboard", "leaderboard"), panel))
    losses = wr.LinePlot(
        title="Training loss",
        x="train/step",
        y=["train/loss"],
        groupby=wr.Config("method"),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        layout=wr.Layout(w=_WIDE, h=_LOW),
    )
    trials = runs("train", "trials")
    trials.groupby = ["config.budget", "config.method"]
    blocks += [wr.H2(text="Trials"), wr.PanelGrid(runsets=[trials], panels=[losses])]
    return wr.Report(
        project=definition.project,
        entity=entity,
        title=definition.title,
        description=definition.description,
        blocks=blocks,
        width="fluid",
    )


def save(definition: ReportDefinition, known_id: str) -> tuple[str, str]:
    """Save the report over the one with this id or description, or as a new one; return its id and URL.

    Args:
        definition: definition of the report; the project must exist.
        known_id: the id that the server gave it the last time, "" if unknown.

    Raises:
        ModuleNotFoundError: ``wandb-workspaces`` is not installed.
    """
    import wandb
    import wandb_workspaces.reports.v2  # noqa: F401 - so that it fails before any request to the server

    api = wandb.Api()
    entity = definition.entity or api.settings["entity"] or api.default_entity or ""
    there = {report.id: report.description or "" for report in api.reports(f"{entity}/{definition.project}")}
    same = [view_id for view_id, description in there.items() if description.endswith(definition.description)]
    report = build(definition, entity)
    report.id = known_id if known_id in there else next(iter(same), "")
    report.save()
    return report.id, report.url


def _of_test(metric: str) -> str:
    return f"test/{metric}"


def _heading(budget: Budget) -> str:
    return budget.spec if budget.minutes is None else f"{budget.spec} ({budget.minutes:.3g} min)"


def _cell(score: Score) -> str:
    interval = "" if score.low is None or score.high is None else f" [{score.low:.3f}, {score.high:.3f}]"
    return f"{score.mean:.3f}{interval}{' *' if score.tie else ''}"


def main(path: str, known_id: str) -> None:
    """Save the report defined in ``path`` and print one line of JSON: its ``id`` and ``url``, or the ``error``.

    Of an error only its type is reported: its text may contain the key.
    """
    answer = os.fdopen(os.dup(1), "w")
    with open(os.devnull, "w") as nothing:  # noqa: PTH123 - the service of wandb would inherit it and hold it open
        os.dup2(nothing.fileno(), 1)
    try:
        view_id, url = save(ReportDefinition.from_json(Path(path).read_text()), known_id)
        said = {"id": view_id, "url": url}
    except ModuleNotFoundError as error:
        said = {"error": f"no {error.name}"}
    except Exception as error:
        said = {"error": type(error).__name__}
    print(json.dumps(said), file=answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
