"""The tables, pictures and report of a leaderboard on W&B: each once, and the same one again when numbers change."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.benchmark.tracking.published import KEY, SECONDS, Home, connector, new_home, result, wait_until
from tests.wandb_server import Fault, ReceivedRun, WandbServer
from tissuebench.results.records.overlays import OverlayTile, overlays_folder, pictures_folder, write_index
from tissuebench.results.tables.leaderboard import build
from tissuebench.results.tables.pairs import pairs
from tissuebench.tracking.leaderboard_content import Table, budgets, curves, efficiency_table
from tissuebench.tracking.publisher import Publisher
from tissuebench.tracking.report import Budget, ReportDefinition, Score, markdown
from tissuebench.tracking.side_by_side import one_trial_each, side_by_side
from tissuebench.tracking.upload import Saved, save_report

EDGE = 8

TRIALS = [
    result(0),
    result(1),
    result(3, "weak"),
    result(4, "weak"),
    result(5, budget="masks:9p", minutes=18.0),
    result(6, "weak", "masks:9p", 18.0),
    result(7, "full", "masks:all", 60.0),
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    yield from new_home(tmp_path, monkeypatch, *TRIALS)


@pytest.fixture
def small_home(tmp_path, monkeypatch):
    yield from new_home(tmp_path, monkeypatch, TRIALS[0])


@pytest.fixture
def connect(monkeypatch):
    return connector(monkeypatch)


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


def the_report(server):
    (report,) = server.reports.values()
    return report


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
    assert "offline (no API key); 8 runs wait" in said
    assert said.endswith("and the next run that is online their report")
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


@pytest.fixture
def server(small_home, connect):
    """A server with the project, and no report yet."""
    with WandbServer() as made:
        connect(made.url)
        made.runs["0" * 16] = ReceivedRun(project="p")
        yield made


@pytest.fixture
def definition(tmp_path):
    path = tmp_path / "definition.json"
    path.write_text(a_definition().to_json())
    return path


def test_a_report_that_is_gone_or_made_someone_elses_is_made_anew(server, definition):
    first = save_report(definition, "", SECONDS)
    assert list(server.reports) == [first.view_id]
    assert save_report(definition, first.view_id, SECONDS) == first
    server.reports.clear()
    second = save_report(definition, first.view_id, SECONDS)
    assert list(server.reports) == [second.view_id] != [first.view_id]
    assert second.url.endswith(second.view_id)
    server.reports[second.view_id].description = "mine now"  # of the same title; and its id is not known here
    third = save_report(definition, "", SECONDS)
    assert list(server.reports) == [second.view_id, third.view_id]
    assert server.reports[second.view_id].n_saved == 1


def test_an_answer_that_is_lost_makes_no_second_report(server, definition):
    server.fault = Fault.FORGETS_ANSWER
    said = []
    asks = threading.Thread(target=lambda: said.append(save_report(definition, "", SECONDS)))
    asks.start()
    wait_until(lambda: server.reports, "no report was saved")
    (view_id,) = server.reports
    (child,) = [
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if str(definition).encode() in folder.joinpath("cmdline").read_bytes()
    ]
    os.kill(child, signal.SIGKILL)
    asks.join()
    assert said == [Saved(error="its process exited early")]
    server.fault = Fault.NONE
    assert save_report(definition, "", SECONDS).view_id == view_id
    assert list(server.reports) == [view_id]
    assert server.reports[view_id].n_saved == 2


def test_a_server_that_says_nothing_is_waited_for_so_long(server, definition):
    server.fault = Fault.SILENT_TO_REPORTS
    assert save_report(definition, "", 1.0) == Saved(error="no answer for 1 s")
    assert not server.reports


def test_a_team_is_named_by_the_definition(server, definition):
    definition.write_text(replace(a_definition(), entity="team").to_json())
    save_report(definition, "", SECONDS)
    assert the_report(server).entity == "team"


def test_a_report_that_fails_costs_a_line_once_and_comes_with_the_next_run(small_home, connect):
    with WandbServer(fault=Fault.NO_REPORTS) as server:
        connect(server.url)
        with Publisher(small_home.path) as publisher:
            publisher.board(build(small_home.results).rows, [TRIALS[0].trial_id])
            wait_until(lambda: server.n_refused, "no report was sent")
            said = small_home.publish_with(publisher)
        assert "1 runs and the leaderboard are online; the report is not (WandbApiFailedError)" in said
        assert sorted(server.runs) == small_home.run_ids()
        assert not server.reports
        assert server.n_refused == 1
    written = [path.read_bytes() for path in small_home.path.parent.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in text for text in [said.encode(), *written])
    with WandbServer(keeps=server) as server:
        connect(server.url)
        assert "online, the report is" in small_home.publish()
        assert len(server.reports) == 1
        assert server.operations["UpsertBucket"] == 0


@pytest.mark.slow
def test_without_the_extra_the_line_says_so_and_the_definition_waits(small_home, connect, tmp_path, monkeypatch):
    absent = tmp_path / "absent" / "wandb_workspaces"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ModuleNotFoundError('no', name=__name__)")
    with WandbServer() as server:
        connect(server.url)
        with monkeypatch.context() as without:
            without.setenv("PYTHONPATH", str(absent.parent))
            said = small_home.publish()
        assert "the report is not (it needs wandb-workspaces: pip install 'tissuebench[wandb-report]')" in said
        assert not server.reports
        small_home.publish()
        assert len(server.reports) == 1


@pytest.mark.slow
def test_a_damaged_definition_is_named_and_written_again_with_the_table(small_home, connect):
    small_home.publish()
    damaged = small_home.runs / "wandb" / "reports" / f"{small_home.board_id}.json"
    damaged.write_text("{}")
    with WandbServer() as server:
        connect(server.url)
        with Publisher(small_home.path) as publisher:
            publisher.trial(TRIALS[0].trial_id)
            assert f"the report is not ({damaged} is damaged: delete it)" in publisher.close(SECONDS)
        assert "the report is http" in small_home.publish()


def test_a_definition_comes_back_from_disk_as_it_was():
    definition = a_definition()
    again = ReportDefinition.from_json(definition.to_json())
    assert again == definition
    assert again.hash == definition.hash
    assert replace(definition, scores=definition.scores[:1]).hash != definition.hash


def a_definition() -> ReportDefinition:
    return ReportDefinition(
        run_id="leaderboard-1",
        project="p",
        entity="",
        version="1.2",
        dataset="tiny",
        comparison="1",
        content="c",
        n_trials=3,
        budgets=[Budget("masks:3p", 6.0), Budget("masks:all", None)],
        scores=[
            Score("supervised", "masks:3p", 0.5, 0.25, 0.75, True),
            Score("weak[a=1]", "masks:3p", 0.25, None, None, False),
            Score("full", "masks:all", 0.875, 0.75, 1.0, False),
        ],
        tables=["leaderboard"],
        has_curves=False,
    )


def test_the_scores_stand_in_the_text_too():
    assert markdown(a_definition()).endswith(
        "| mIoU | masks:3p (6 min) | masks:all |\n"
        "| --- | --- | --- |\n"
        "| `supervised` | 0.500 [0.250, 0.750] * |  |\n"
        "| `weak[a=1]` | 0.250 |  |\n"
        "| `full` |  | 0.875 [0.750, 1.000] |"
    )


def test_curves_and_budgets_are_by_minutes_and_full_is_no_curve():
    rows = [{**vars(row)} for row in build(TRIALS).rows]
    assert budgets(rows) == [Budget("masks:3p", 6.0), Budget("masks:9p", 18.0), Budget("masks:all", 60.0)]
    means = {(row["method"], row["budget"]): row["mean"] for row in rows if row["metric"] == "miou"}
    drawn = curves(rows)
    assert drawn == {
        method: [(6.0, means[method, "masks:3p"]), (18.0, means[method, "masks:9p"])]
        for method in ("supervised", "weak")
    }
