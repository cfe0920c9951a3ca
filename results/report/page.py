"""The page of a report: the contents of its folder, as bytes by path."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from tissuebench.common.hashing import Json
from tissuebench.results.frames.rows import leaderboard_csv
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.render.terminal import minutes, short, signed
from tissuebench.results.report import provenance as origin
from tissuebench.results.report.picture import Picture
from tissuebench.results.report.scores import scores
from tissuebench.results.report.styles import MethodStyle, method_styles, metric_name, plain, settings
from tissuebench.results.report.subject import Subject
from tissuebench.results.report.summary import summary
from tissuebench.results.report.tissue import Album, Tissue, tissue
from tissuebench.results.report.view import View, view
from tissuebench.results.tables.compute_cost import ComputeRow
from tissuebench.results.tables.leaderboard import LOWER, UPPER
from tissuebench.results.tables.pairs import PairRow, pairs
from tissuebench.results.tables.ranks import Ranking, rankings

MOST_BUDGETS = 6
"""Maximum number of budgets with figures of their own; the table has all."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """Section of the page about one subject.

    Attributes:
        by_budget: by kind of figure, its pictures at each budget.
        unshown: budgets without figures of their own.
    """

    view: View
    summary: tuple[str, ...]
    curves: tuple[Picture, ...]
    differences: tuple[Picture, ...]
    cost: tuple[Picture, ...]
    by_budget: Mapping[str, tuple[tuple[str, Picture], ...]]
    pairs: tuple[PairRow, ...]
    compute: tuple[ComputeRow, ...]
    tissue: tuple[Tissue, ...]
    provenance: Mapping[str, Json]
    unshown: tuple[str, ...]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All pictures of the chapter."""
        budgets = (picture for group in self.by_budget.values() for _, picture in group)
        return (*self.curves, *self.differences, *self.cost, *budgets)


def build(subjects: Sequence[Subject], title: str) -> dict[str, bytes]:
    """Build all files of the report; the same subjects give the same bytes.

    Raises:
        DataError: results of a subject are not comparable, or a picture is damaged.
    """
    arms = {result.method for subject in subjects for result in subject.results}
    arms |= {row.method for subject in subjects for row in subject.board.rows}
    styles = method_styles(sorted(arms))
    album = Album()
    views = [view(subject, f"d{i}", name, styles) for i, (subject, name) in enumerate(_titled(subjects))]
    chapters = [_chapter(one, album) for one in views]
    across = _across(views, styles)
    table = scores(views)
    script, style = _text("report.js"), _text("report.css")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=DictLoader({name: _text(name) for name in ("report.html", "parts.html")}),
    )
    filters: dict[str, Callable[..., str]] = {
        "minutes": _cost,
        "short": _short,
        "signed": _signed,
        "amount": _amount,
        "metric": metric_name,
        "plain": plain,
        "breakable": _breakable,
    }
    environment.filters.update(filters)
    html = environment.get_template("report.html").render(
        title=plain(title),
        chapters=chapters,
        across=across,
        table=table,
        styles=styles,
        settings=settings(sorted(arms)),
        n_trials=sum(len(subject.results) for subject in subjects),
        n_methods=len(arms),
        failures=[(one, failure) for one in views for failure in one.subject.failures],
        gaps=[(one, gap) for one in views for gap in one.subject.board.gaps],
        notes=[plain(note) for one in views for note in one.subject.board.notes],
        words=origin.words,
        pairs_of=origin.pairs_of,
        lower=LOWER,
        upper=UPPER,
        # The content security policy allows only the script with this hash.
        script=Markup(script),  # noqa: S704 - ours
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(style),  # noqa: S704 - ours
    )
    pictures = [picture for chapter in chapters for picture in chapter.pictures] + list(across)
    out = {"index.html": html.encode(), **album.files}
    for picture in pictures:
        for end, data in (("svg", picture.svg), ("pdf", picture.pdf), ("csv", picture.csv)):
            out[f"figures/{picture.name}.{end}"] = data
    for chapter in chapters:
        out[f"data/{chapter.view.slug}-leaderboard.csv"] = leaderboard_csv(chapter.view.subject.board.rows).encode()
    return out


def _chapter(one: View, album: Album) -> Chapter:
    # matplotlib takes a second to import, so it is imported only for drawing.
    from tissuebench.results.report.figures.calibration import calibration
    from tissuebench.results.report.figures.classes import classes
    from tissuebench.results.report.figures.confusion import confusion
    from tissuebench.results.report.figures.curves import curves
    from tissuebench.results.report.figures.forest import forest
    from tissuebench.results.report.figures.learning import learning
    from tissuebench.results.report.figures.pareto import pareto
    from tissuebench.results.report.figures.patients import patients
    from tissuebench.results.report.figures.sheet import drawing

    complete = _complete(one)
    compared = pairs(complete)
    p_holm: dict[tuple[str, str], float | None] = {}
    for row in compared:
        for method, other in ((row.method_a, row.method_b), (row.method_b, row.method_a)):
            if other == LOWER:
                p_holm[method, row.budget] = row.p_holm
    budgets = [name for name, _ in one.budgets] or ([one.full.budget] if one.full is not None else [])
    kinds = {
        "classes": classes,
        "patients": patients,
        "confusion": confusion,
        "calibration": calibration,
        "learning": learning,
    }
    with drawing():
        return Chapter(
            view=one,
            summary=tuple(summary(one)),
            curves=tuple(curves(one)),
            differences=tuple(forest(one, p_holm)),
            cost=tuple(pareto(one)),
            by_budget={
                kind: tuple(
                    (plain(name), picture)
                    for i, name in enumerate(budgets[:MOST_BUDGETS])
                    for picture in draw(one, name, i)
                )
                for kind, draw in kinds.items()
            },
            pairs=tuple(row for row in compared if UPPER not in (row.method_a, row.method_b)),
            compute=tuple(cell.compute for cell in one.cells.values()),
            tissue=tuple(tissue(one, album)),
            provenance=origin.provenance(one),
            unshown=tuple(plain(name) for name in budgets[MOST_BUDGETS:]),
        )


def _across(views: Sequence[View], styles: Mapping[str, MethodStyle]) -> tuple[Picture, ...]:
    """Draw ranks over datasets; empty with too few (``rankings``), or if one has groups that are not comparable."""
    from tissuebench.results.report.figures.ranks import ranks
    from tissuebench.results.report.figures.sheet import drawing

    names = [one.subject.dataset for one in views]
    if len(set(names)) < len(names):
        return ()
    found: list[Ranking] = rankings([result for one in views for result in _complete(one)])
    with drawing():
        return tuple(ranks("all", found, styles))


def _complete(one: View) -> list[TrialResult]:
    return [result for result in one.subject.results if (result.method, result.budget) in one.cells]


def _titled(subjects: Sequence[Subject]) -> list[tuple[Subject, str]]:
    """Pair each subject with the name of its data set, numbered if several share one."""
    total, seen, out = Counter(subject.dataset for subject in subjects), Counter[str](), []
    for subject in subjects:
        seen[subject.dataset] += 1
        name = plain(subject.dataset)
        out.append((subject, name if total[subject.dataset] == 1 else f"{name} ({seen[subject.dataset]})"))
    return out


def _cost(value: float | None) -> str:
    return minutes(value, "–")


def _short(value: float | None) -> str:
    return "–" if value is None else short(value)


def _signed(value: float | None) -> str:
    return "–" if value is None else signed(value)


def _breakable(name: str) -> Markup:
    """Allow line breaks after the underscores of a name."""
    return Markup("_<wbr>").join(name.split("_"))


def _amount(value: float | None) -> str:
    """Format a count or size: 12,800, 3.4 M."""
    if value is None:
        return "–"
    for factor, unit in ((1e9, " G"), (1e6, " M")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def _text(name: str) -> str:
    return (files("tissuebench.results.report") / "templates" / name).read_text(encoding="utf-8")
