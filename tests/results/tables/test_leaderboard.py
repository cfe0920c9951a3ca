import io
import json
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from tissuebench.errors import DataError
from tissuebench.results.frames.rows import leaderboard_csv
from tissuebench.results.metrics import lower_is_better
from tissuebench.results.records.result_store import Failure
from tissuebench.results.render.terminal import render, short, signed, to_json
from tissuebench.results.stats.intervals import estimate
from tissuebench.results.stats.multiple import holm
from tissuebench.results.stats.scored import pair, score
from tissuebench.results.tables.leaderboard import CellKey, LeaderboardRow, build
from tissuebench.results.tables.pairs import pairs
from tissuebench.results.tables.panel import panels

PROMISED = [
    *("dataset", "method", "budget", "minutes", "metric", "mean", "low", "high"),
    *("n_seeds", "n_patients", "n_replicates", "diff", "diff_low", "diff_high", "diff_to", "tie", "n_trials_failed"),
]


def pick(board, **where):
    return [row for row in board.rows if all(getattr(row, key) == value for key, value in where.items())]


def failure_of(trial):
    place = (trial.trial_id, trial.dataset, trial.method, trial.budget, trial.replicate, trial.seed)
    return Failure(*place, "boom", "")


def printed(board, width=120, **console):
    out = io.StringIO()
    render(board, Console(file=out, width=width, **console))
    return out.getvalue()


def test_hand_made_results_give_the_hand_made_table(make_trial, golden):
    """All patients are alike and every cell is one run: scores are plain fractions, intervals what is assumed.

    Boundaries are as long as their class and matched as often as it is right.
    """
    common = {"classes": ("A", "B"), "diagnoses": {"A": ("A",), "B": ("B",)}, "dataset": "hand"}
    common |= {"patient_ids": ("p0", "p1", "p2", "p3"), "slide_diagnoses": ("A", "A", "B", "B")}

    def one(method, budget, minutes, right):
        counts = [[[right, 8 - right], [8 - right, right]]] * 4
        return make_trial(method, budget, minutes=minutes, counts=counts, **common)

    done = [
        one("full", "masks:all", 99.5, 8),
        one("mine", "masks:2p", 16.0, 7),
        one("supervised", "masks:2p", 16.0, 6),
    ]
    board = build(done, failures=[failure_of(one("broken", "masks:2p", 16.0, 1))])
    got = json.loads(to_json(board.rows))
    expected = json.loads((golden / "leaderboard_small.json").read_text())
    assert len(got) == len(expected)
    for row, wanted in zip(got, expected, strict=True):
        assert row == {key: pytest.approx(value, abs=1e-12) if key != "tie" else value for key, value in wanted.items()}
    (row,) = pick(board, method="mine", metric="miou")
    n, t = 4, scipy.stats.t.ppf(0.975, 3)
    assert row.mean == pytest.approx(7 / 9)
    for end in (row.low, row.high):  # (s - end)^2 = t^2 V end (1 - end) / (s (1 - s)), V = .1 s (1 - s) / n^2
        assert (row.mean - end) ** 2 == pytest.approx(t**2 * 0.1 / n**2 * end * (1 - end))
    assert board.notes == (
        "hand: of 12 case-level diagnoses over all trials 12 were ties and 0 had no diagnostic area; "
        "they count in equal parts for each of the tied diagnoses",
    )


def test_the_fields_are_the_promised_ones(results):
    assert [field.name for field in fields(LeaderboardRow)] == PROMISED
    board = build(results)
    assert list(json.loads(to_json(board.rows))[0]) == PROMISED
    lines = leaderboard_csv(board.rows).splitlines()
    assert lines[0] == ",".join(PROMISED) and len(lines) == 1 + len(board.rows)


def test_the_same_results_in_any_order_give_the_same_table(results):
    shuffled = [results[i] for i in np.random.default_rng(0).permutation(len(results))]
    assert build(results) == build(shuffled)
    flipped = []
    for r in results:
        back = slice(None, None, -1)
        per_slide = ("patient_ids", "slide_ids", "slide_diagnoses", "counts", "boundaries")
        per_slide += ("calibration", "areas", "slide_seconds")
        columns = {name: getattr(r, name)[back] for name in per_slide}
        flipped.append(replace(r, **columns))
    assert build(flipped) == build(results)


def test_rows_are_ordered_supervised_first_full_last(results):
    order = list(dict.fromkeys((row.budget, row.method) for row in build(results).rows))
    methods = ["supervised", "good", "same"]
    assert order == [(b, m) for b in ("masks:3p", "masks:25%") for m in methods] + [("masks:all", "full")]


def test_differences_are_to_supervised_at_the_same_budget(results):
    board = build(results)
    (same,) = pick(board, method="same", budget="masks:3p", metric="miou")
    assert (same.diff, same.diff_to) == (0.0, "supervised")
    assert same.diff_low == -same.diff_high < 0
    (good,) = pick(board, method="good", budget="masks:3p", metric="miou")
    assert good.diff_low > 0 and good.n_seeds == 2 and good.n_replicates == 2 and good.n_patients == 6
    for row in pick(board, method="full") + pick(board, method="supervised"):
        assert row.diff is row.diff_to is None


def test_only_a_clear_best_wins(results):
    board = build(results)
    assert {r.method for r in pick(board, budget="masks:3p", metric="miou") if r.tie} == {"good"}
    without = build([r for r in results if r.method != "good"])
    assert {r.method for r in pick(without, budget="masks:3p", metric="miou") if r.tie} == {"supervised", "same"}
    alone = build([r for r in results if r.method in ("supervised", "full")])
    assert not any(row.tie for row in alone.rows)


def test_ties_are_those_of_holm_over_all_pairs_of_each_metric(results):
    """Marked one by one, from all metrics of each difference at once."""
    board = build(results)
    (panel,) = panels(results)
    bests = set()
    for budget in ("masks:3p", "masks:25%"):
        scored = {m: score(panel.cells[m, budget]) for m in ("supervised", "good", "same")}
        names = [("good", "same"), ("good", "supervised"), ("same", "supervised")]
        found = [estimate(pair(scored[a], scored[b])) for a, b in names]
        for j, metric in enumerate(panel.metrics):
            rows = {row.method: row for row in pick(board, budget=budget, metric=metric)}
            best = (min if lower_is_better(metric) else max)(sorted(rows), key=lambda name: rows[name].mean)
            bests.add(best)
            adjusted = holm([one.p[j] for one in found])
            for method, row in rows.items():
                p = [p for both, p in zip(names, adjusted, strict=True) if set(both) == {method, best}]
                assert row.tie == (method == best or p[0] >= 0.05), (budget, metric, method)
    assert len(bests) > 1


def test_marks_never_contradict_the_p_of_the_pairs(results):
    board = build(results)
    (panel,) = panels(results)
    compared = {
        (row.budget, row.metric, frozenset((row.method_a, row.method_b))): row.p_holm
        for row in pairs(results, metrics=panel.metrics)
    }
    for budget in ("masks:3p", "masks:25%"):
        for metric in panel.metrics:
            rows = pick(board, budget=budget, metric=metric)
            best = (min if lower_is_better(metric) else max)(rows, key=lambda row: row.mean)
            for row in rows:
                p = compared.get((budget, metric, frozenset((row.method, best.method))), 1.0)
                assert row.tie == (p >= 0.05), (budget, metric, row.method)


def test_an_error_is_better_when_it_is_lower(make_trial):
    def one(method, seed, confidence):
        result = make_trial(method, seed=seed, rng=np.random.default_rng(seed))
        calibration = np.zeros_like(result.calibration)
        pixels = result.counts.sum((1, 2))
        right = np.diagonal(result.counts, axis1=1, axis2=2).sum(-1)
        calibration[:, 7] = np.stack([pixels, confidence * pixels, right], -1)
        return replace(result, calibration=calibration)

    both = [one(method, seed, c) for method, c in (("supervised", 0.95), ("modest", 0.6)) for seed in range(2)]
    board = build(both)
    assert {row.method for row in pick(board, metric="ece") if row.tie} == {"modest"}
    assert {row.method for row in pick(board, metric="miou") if row.tie} == {"supervised", "modest"}


def test_a_pair_that_shares_no_run_is_a_tie(results, make_trial):
    rng = np.random.default_rng(0)
    lone = [make_trial("elsewhere", "masks:3p", 9, 9, rng=rng, skill=0.1)]
    board = build(results + lone)
    (row,) = pick(board, method="elsewhere", metric="miou")
    assert row.diff is None and row.tie


def test_incomplete_cells_are_gaps(results):
    missing, *rest = results
    planned = [CellKey("toy", m, "masks:25%", 4) for m in ("supervised", "good")]
    planned += [CellKey("toy", "never", "masks:3p", 4), CellKey("elsewhere", "never", "masks:9p", 4, 60.0)]
    board = build(rest, expected=planned)
    assert [(g.dataset, g.method, g.n_done, g.n_planned) for g in board.gaps] == [
        ("elsewhere", "never", 0, 4),
        ("toy", "never", 0, 4),
        ("toy", "supervised", 3, 4),
    ]
    for row in pick(board, method="supervised", budget="masks:25%") + pick(board, method="never"):
        assert row.mean is None and row.n_seeds == 0 and not row.tie
    assert {row.minutes for row in pick(board, dataset="toy", method="never")} == {24.0}
    assert {row.minutes for row in pick(board, dataset="elsewhere")} == {60.0}
    (good,) = pick(board, method="good", budget="masks:25%", metric="miou")
    assert good.mean is not None and good.diff is None and good.diff_to == "supervised"
    assert "3 of 4 trials" in printed(board) and "0 of 4 trials" in printed(board)
    failed = build(rest, failures=[failure_of(missing)])
    assert pick(failed, method="supervised", budget="masks:25%")[0].n_trials_failed == 1
    assert "3 of 4 trials, 1 failed" in printed(failed, width=160)
    assert build(results, failures=[failure_of(missing)]).gaps == ()  # it finished later


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patient_ids": tuple(f"q{i}" for i in range(6) for _ in range(2))}, "different test patients"),
        ({"classes": ("tissue", "CCA", "HCC")}, "different classes"),
        ({"split": "split-2"}, "different splits"),
        ({"diagnoses": {"CCA": ("CCA",), "HCC": ("HCC",)}}, "different diagnoses"),
    ],
)
def test_what_cannot_stand_in_one_table_is_an_error(results, make_trial, change, message):
    other = make_trial("other", rng=np.random.default_rng(0), **change)
    with pytest.raises(DataError, match=message):
        build([*results, other])


def test_the_same_run_twice_is_an_error(results):
    with pytest.raises(DataError, match="are both toy, supervised, masks:25%, draw 0, seed 0"):
        build([*results, replace(results[0], trial_id="0" * 16)])


def test_slides_of_no_one_diagnosis_are_left_out(make_trial):
    rng = np.random.default_rng(0)
    diagnoses = ("HCC", "HCC", "CCA", "CCA", "", "HCC;CCA") * 2
    board = build([make_trial(rng=rng, slide_diagnoses=diagnoses)])
    assert pick(board, metric="balanced_accuracy")
    assert any("4 test slides with no or a mixed diagnosis" in note for note in board.notes)
    none = build([make_trial(rng=rng, diagnoses={})])
    assert not pick(none, metric="balanced_accuracy") and none.notes == ()


def test_a_class_that_is_nowhere_has_no_score(make_trial):
    counts = np.zeros((12, 3, 3), dtype=int)
    counts[:, :2, :2] = 5
    board = build([make_trial(counts=counts)])
    (row,) = pick(board, metric="dice/CCA")
    assert row.mean is row.low is None
    assert pick(board, metric="miou")[0].mean == pytest.approx(1 / 3)
    assert "NaN" not in to_json(board.rows)


def test_the_table_fits_120_columns_as_plain_text(results):
    text = printed(build(results))
    assert max(map(len, text.splitlines())) <= 120 and "\x1b" not in text
    assert "balanced" in text and "Dice per class" in text and "2x2/6" in text and "[low, high]" in text
    said = " ".join(text.split())
    assert "at 5 % over all pairs" in said and "draws of the budget, seeds, and patients" in said
    assert "assumed, not measured" in said
    wide = printed(build(results), width=170)
    line = next(line for line in wide.splitlines() if line.startswith("good"))
    assert " • [." in line and "…" not in text
    tty = printed(build(results), force_terminal=True)
    assert "\x1b[1m" in tty


def test_names_from_data_are_not_markup(make_trial):
    rng = np.random.default_rng(0)
    odd = make_trial(rng=rng, dataset="[red]x[/red]", classes=("[b]a", "HCC", "CCA[/]"), diagnoses={})
    text = printed(build([odd]))
    assert "[red]x[/red]" in text and "[b]a" in text and "CCA[/]" in text


def test_an_old_terminal_gets_letters_it_knows(results):
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    render(build(results), Console(file=out, width=120))
    out.flush()
    assert b" *" in raw.getvalue()


def test_nothing_at_all():
    board = build([])
    assert board.rows == () and to_json(board.rows) == "[]" and "no results yet" in printed(board)


def test_numbers_are_short():
    assert [short(x) for x in (0.4461, 1.0, 0.0, 0.9999)] == [".446", "1.000", ".000", "1.000"]
    assert [signed(x) for x in (0.0214, -0.01, 0.0, -0.0001, 1.0)] == ["+.021", "-.010", ".000", "-.000", "+1.000"]


def test_torch_is_never_imported():
    heavy = {"torch", "lightning", "zarr", "wandb"}
    code = (
        "import importlib, pkgutil, sys, tissuebench.results as package\n"
        "for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_settings_of_the_only_arm_of_a_method_are_said_below_the_table(make_trial):
    rng = np.random.default_rng(0)
    ours, theirs = "mine[decay=0.95,layers=['deep', 'middle']]", ["other[a=1]", "other[a=2]"]
    board = build([make_trial(method, rng=rng) for method in ("supervised", ours, *theirs)])
    text = printed(board, width=200)
    lines = text.splitlines()
    assert [line for line in lines if "decay" in line] == ["mine: with decay=0.95, layers=['deep', 'middle']"]
    assert (
        sum(line.startswith("mine ") for line in lines) == 4
    )  # of the scores, the cases, the classes, and the compute
    for method in theirs:
        assert sum(line.startswith(f"{method} ") for line in lines) == 4
    assert {row.method for row in board.rows} == {"supervised", ours, *theirs}  # machines read the whole name


def test_each_class_says_how_rare_it_is(make_trial):
    counts = np.zeros((12, 3, 3), dtype=int)
    counts[:, 0, 0], counts[:, 1, 0], counts[:, 2, 2] = 90, 9, 1  # it is the truth that counts
    text = printed(build([make_trial(counts=counts)]))
    (line,) = (line for line in text.splitlines() if "of pixels" in line)
    assert line.split()[2:] == ["90", "%", "of", "pixels", "9", "%", "of", "pixels", "1", "%", "of", "pixels"]


def test_label_efficiency_of_hand_made_results(make_trial):
    """Every patient is alike; the curves are known, and intervals are what so few patients leave open."""

    def one(method, budget, minutes, right):
        return make_trial(method, budget, minutes=minutes, counts=[np.diag([100, right, 0]) + other(right)] * 12)

    def other(right):
        return [[0, 0, 0], [100 - right, 0, 0], [0, 0, 0]]

    done = [
        one("supervised", "masks:1p", 10.0, 20),
        one("supervised", "masks:9p", 1000.0, 60),
        one("mine", "masks:1p", 10.0, 60),
        one("mine", "masks:9p", 1000.0, 100),
        one("once", "masks:9p", 1000.0, 100),
        one("full", "masks:all", 2000.0, 100),
    ]
    board = build(done)
    low, high = ((100 / (200 - right) + right / 100) / 2 for right in (20, 60))
    assert [row.method for row in board.efficiency] == ["supervised", "mine"]  # a single budget is no curve
    supervised, mine = board.efficiency
    assert (supervised.first, supervised.last, supervised.n_budgets) == (10, 1000, 2)
    assert supervised.area == pytest.approx((low + high) / 2)
    assert supervised.area_low < supervised.area < supervised.area_high
    assert supervised.minutes == supervised.minutes_high == np.inf
    assert mine.minutes == pytest.approx(10 ** (1 + 2 * (0.95 - high) / (1 - high)))
    assert mine.minutes_low < mine.minutes < mine.minutes_high
    text = printed(board)
    assert "label efficiency (miou)" in text and "> 1000 [" in text


def test_without_two_budgets_there_is_no_curve(make_trial):
    board = build([make_trial(rng=np.random.default_rng(0))])
    assert board.efficiency == () and "efficiency" not in printed(board)
