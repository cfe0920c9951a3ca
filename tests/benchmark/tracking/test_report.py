"""The W&B report of a leaderboard: its tables, pictures and panels, updated in place."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.benchmark.tracking.published import TRIALS, Home, new_home, result, the_report
from tests.wandb_server import WandbServer
from tissuebench.results.records.overlays import OverlayTile, overlays_folder, pictures_folder, write_index
from tissuebench.results.tables.leaderboard import build
from tissuebench.results.tables.pairs import pairs
from tissuebench.tracking.leaderboard_content import Table, budgets, curves, efficiency_table
from tissuebench.tracking.report import Budget, ReportDefinition
from tissuebench.tracking.side_by_side import one_trial_each, side_by_side

EDGE = 8


@pytest.fixture
def home(tmp_path, monkeypatch):
    yield from new_home(tmp_path, monkeypatch, *TRIALS)


def add_overlays(home: Home, trial_id: str, shade: int) -> list[OverlayTile]:
    """Two chosen tiles and one of the worst; the prediction of the first is class ``shade`` throughout."""
    tiles = []
    shared, own = pictures_folder(home.path), overlays_folder(home.path, trial_id)
    for folder in (shared, own):
        folder.mkdir(parents=True, exist_ok=True)
    for number, reason in enumerate(["chosen", "chosen", "worst"]):
        paths = [shared / f"{number}.jpg", shared / f"{number}.png", own / f"{number}.png"]
        Image.new("RGB", (EDGE, EDGE), (90 * number, 10, 10)).save(paths[0])
        truth = np.full((EDGE, EDGE), number, np.uint8)
        truth[0] = 255
        for path, mask in zip(paths[1:], [truth, np.full_like(truth, (shade + number) % 3)], strict=True):
            picture = Image.fromarray(mask, mode="P")
            picture.putpalette([9, 8, 7] * 256)
            picture.save(path)
        tiles.append(OverlayTile(f"s{1 - number % 2}", 8 * number, 0, EDGE, EDGE, reason, 0.5, *paths))
    write_index(home.path, trial_id, tiles)
    return tiles


def table(server, name: str) -> list[dict]:
    """A table of the leaderboard run, as rows."""
    (data,) = [data for path, data in server.uploads.items() if path.endswith(f"/artifact/{name}.table.json")]
    read = json.loads(data)
    return [dict(zip(read["columns"], row, strict=True)) for row in read["data"]]


def pixels(server, path: str) -> np.ndarray:
    """An uploaded picture, by its path in a run or artifact."""
    (data,) = {data for name, data in server.uploads.items() if name.endswith(path)}
    return np.asarray(Image.open(io.BytesIO(data)))


def test_one_report_written_offline_sent_later_and_updated_in_place(home, connect):
    said = home.publish()
    assert said.startswith("8 runs for W&B wait in ") and "(no API key: set WANDB_API_KEY)" in said
    assert said.endswith("and the next run that is online writes their report")
    kept = ReportDefinition.from_json((home.runs / "wandb" / "reports" / f"{home.board_id}.json").read_text())
    assert (kept.run_id, kept.dataset, kept.n_trials, kept.project) == (home.board_id, "tiny", 7, "tissuebench")
    with WandbServer() as server:
        connect(server.url)
        home.publish()
        assert server.unknown == []
        (view_id,) = server.reports
        report = the_report(server)
        assert (report.title, report.kind, report.n_saved) == ("TissueBench on tiny", "runs", 1)
        assert home.board_id in report.description
        for part in ("masks:3p (6 min)", "masks:9p (18 min)", "| `weak` |", "Score over minutes"):
            assert part in report.text
        received = server.operations.copy()
        assert view_id in home.publish()
        assert server.operations == received

        home.add(result(8, "weak"))
        assert view_id in home.publish()
        assert list(server.reports) == [view_id]
        assert the_report(server).n_saved == 2
        assert "8 finished trials" in the_report(server).text
        assert sorted(server.runs) == home.run_ids()


def test_panels_show_what_the_runs_of_this_comparison_have(home, connect):
    with WandbServer() as server:
        connect(server.url)
        home.publish()
        grids = [block["metadata"] for block in the_report(server).spec["blocks"] if block["type"] == "panel-grid"]
        comparison = home.board_id.partition("-")[2]
        shown = {}
        for grid in grids:
            (runs,) = grid["runSets"]
            assert (runs["project"]["entityName"], runs["project"]["name"]) == ("local", "tissuebench")
            wanted = {one["key"]["name"]: one["value"] for one in runs["filters"]["filters"]}
            assert wanted.pop("comparison") == comparison
            kinds = [panel["viewType"] for panel in grid["panelBankSectionConfig"]["panels"]]
            shown.setdefault(wanted["jobType"], []).append((kinds, wanted.get("budget")))
            for name, expected in wanted.items():  # these runs exist
                of_run = {"jobType": lambda run: run.job_type, "budget": lambda run: run.config["budget"]}[name]
                assert expected in {
                    of_run(run) for run in server.runs.values() if "budget" in run.config or name == "jobType"
                }
        bars = [(["Bar Chart"], spec) for spec in ("masks:3p", "masks:9p", "masks:all")]
        assert shown["train"] == [*bars, (["Scatter Plot"], None), (["Run History Line Plot"], None)]
        assert [kinds for kinds, _ in shown["leaderboard"]] == [
            ["Vega2"],
            *[["Weave"]] * (len(shown["leaderboard"]) - 1),
        ]
        # What panels name is what runs have.
        run = server.runs[TRIALS[0].trial_id]
        assert {"test/miou", "train/loss"} <= set(run.summary)
        assert {"method", "minutes"} <= set(run.config)
        assert run.curve("train/step") == {10: 10, 20: 20}
        assert '"tableKey", "value": "curves_table"' in the_report(server).text
        drawn = table(server, "curves_table")
        assert {(row["lineKey"], row["step"]) for row in drawn} == {
            (m, x) for m in ("supervised", "weak") for x in (6, 18)
        }
        rows = build(TRIALS).efficiency
        told = table(server, "efficiency")
        assert [(row["method"], row["area"]) for row in told] == [(row.method, row.area) for row in rows]
        assert [row["method"] for row in told] == ["supervised", "weak"]
        told = table(server, "pairs")
        assert told == [vars(row) for row in pairs(TRIALS)]
        assert {(row["method_a"], row["method_b"]) for row in told} > {("supervised", "weak")}
        headings = [
            block["children"][0]["text"] for block in the_report(server).spec["blocks"] if block["type"] == "heading"
        ]
        assert headings[-4:] == ["Leaderboard", "Pairs", "Efficiency", "Trials"]


def test_infinite_minutes_become_a_remark():
    row = dict.fromkeys(("dataset", "method", "metric", "n_budgets", "first", "last", "area", "area_low", "area_high"))
    row |= {"minutes_low": 3.0, "minutes_high": float("inf"), "smallest": 1.0, "largest": 9.0}
    made = efficiency_table([{**row, "minutes": minutes} for minutes in (0.0, 5.0, float("inf"), None)])
    of = {name: [one[i] for one in made.data] for i, name in enumerate(made.columns)}
    assert isinstance(made, Table)
    assert of["minutes"] == [0.0, 5.0, None, None]
    assert of["minutes_high"] == [None] * 4
    assert of["remark"] == [
        "95 % of full already at its smallest budget",
        "",
        "95 % of full not even at its largest budget",
        "",
    ]


def test_pictures_with_masks_go_with_each_trial_and_side_by_side(home, connect):
    for shade, one in enumerate(TRIALS[:6]):
        add_overlays(home, one.trial_id, shade)
    home.publish()
    with WandbServer() as server:
        connect(server.url)
        home.publish()
        run = server.runs[TRIALS[2].trial_id]
        (shown,) = run.curve("overlays/tile_1").values()
        assert (shown["width"], shown["height"]) == (EDGE, EDGE)
        assert shown["caption"] == "s1 y=0 x=0, 0.500 of its pixels correct"
        assert set(shown["masks"]) == {"truth", "prediction"}
        truth = pixels(server, shown["masks"]["truth"]["path"])
        assert (truth[0] == 255).all()
        assert (truth[1:] == 0).all()
        assert (pixels(server, shown["masks"]["prediction"]["path"]) == 2).all()
        assert not run.curve("overlays/tile_3"), "of the worst tiles, which differ between trials"

        rows = table(server, "overlays")
        assert [row["slide"] for row in rows] == ["s0 y=8 x=0", "s1 y=0 x=0"]
        assert list(rows[0]) == ["slide", "image", "truth", "supervised", "weak"]
        # At the larger budget: trials 4 and 5 of the list.
        predicted = {
            name: pixels(server, rows[1][name]["masks"]["prediction"]["path"]) for name in ("supervised", "weak")
        }
        assert (predicted["supervised"] == 4 % 3).all()
        assert (predicted["weak"] == 5 % 3).all()
        assert "masks" not in rows[1]["image"]
        assert "Overlays" in the_report(server).text
        received = server.operations.copy()
        home.publish()
        assert server.operations == received

        add_overlays(home, TRIALS[6].trial_id, 0)  # the numbers are the same
        home.publish()
        assert list(table(server, "overlays")[0])[-1] == "full"
        assert the_report(server).n_saved == 2


def test_the_columns_are_one_trial_a_method_at_the_largest_common_budget(tmp_path):
    few, alone = result(8, "few", "masks:3p", 6.0), result(9, "supervised", "masks:50p", 99.0)
    second = replace(TRIALS[4], trial_id="b" * 16, seed=9)
    chosen = one_trial_each([alone, second, *TRIALS, few])
    # Three methods have masks:3p, two masks:9p, one masks:50p.
    assert [(one.method, one.budget, one.seed) for one in chosen] == [
        ("supervised", "masks:3p", 0),
        ("few", "masks:3p", 2),
        ("weak", "masks:3p", 0),
        ("full", "masks:all", 1),
    ]
    assert [one.trial_id for one in one_trial_each([second, *TRIALS])] == [f"{n:016x}" for n in (5, 6, 7)]
    assert one_trial_each([]) == []
    assert side_by_side(tmp_path, chosen) == []


def test_curves_and_budgets_are_by_minutes_and_full_is_no_curve():
    rows = [{**vars(row)} for row in build(TRIALS).rows]
    assert budgets(rows) == [Budget("masks:3p", 6.0), Budget("masks:9p", 18.0), Budget("masks:all", 60.0)]
    means = {(row["method"], row["budget"]): row["mean"] for row in rows if row["metric"] == "miou"}
    drawn = curves(rows)
    assert drawn == {
        method: [(6.0, means[method, "masks:3p"]), (18.0, means[method, "masks:9p"])]
        for method in ("supervised", "weak")
    }
