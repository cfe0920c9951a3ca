"""Saving a W&B report: once only, despite lost answers, silent servers and damaged definitions."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmark.tracking.published import KEY, SECONDS, TRIALS, new_home, the_report, wait_until
from tests.wandb_backend import ReceivedRun
from tests.wandb_server import Fault, WandbServer
from tissuebench.results.tables.leaderboard import build
from tissuebench.tracking.publisher import Publisher
from tissuebench.tracking.report import Budget, ReportDefinition, Score, markdown
from tissuebench.tracking.upload import Saved, save_report


@pytest.fixture
def small_home(tmp_path, monkeypatch):
    yield from new_home(tmp_path, monkeypatch, TRIALS[0])


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
        assert "1 run and the leaderboard are on W&B, in project " in said
        assert said.endswith("; the report is not (WandbApiFailedError)")
        assert sorted(server.runs) == small_home.run_ids()
        assert not server.reports
        assert server.n_refused == 1
    written = [path.read_bytes() for path in small_home.path.parent.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in text for text in [said.encode(), *written])
    with WandbServer(keeps=server) as server:
        connect(server.url)
        assert "; the report is at" in small_home.publish()
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
        assert "the report is at http" in small_home.publish()


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
