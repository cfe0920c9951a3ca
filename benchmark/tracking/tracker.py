"""Weights & Biases, offline first: a copy of the results stored here, never the source of a number.

Each finished trial becomes one run whose id is the trial id; each table becomes one leaderboard run. Every run is first
written offline, as a whole, into ``runs/wandb``, and noted in ``runs/published.json``. If the server responds, ``wandb
sync`` then sends the folder. If a server fails midway, the data is complete on disk in the form that ``wandb sync``
sends, to the same id and over the same lines of history, and the marker ``*.wandb.synced`` that it leaves records what
the server has. After the first failure nothing more is sent. A trial that failed becomes a run that failed; when it is
run again, its run is written again.

While a trial trains, ``LiveRuns`` shows its curves under the same id: a preview, on which none of this depends.

The Report of a table (``tissuebench.tracking.report``) is sent last and noted in ``runs/published_reports.json``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import wandb
from PIL import Image

from tissuebench import __version__
from tissuebench.common.files import exclusive, write_aside
from tissuebench.common.hashing import Json, content_hash
from tissuebench.errors import DataError
from tissuebench.results.records.overlays import read_overlays
from tissuebench.results.records.pseudo_mask_quality import COVERAGE, MIOU
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.comparable import results_folder
from tissuebench.results.tables.leaderboard import build
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.failures import read_failure
from tissuebench.sweep.view.lookup import Found, pseudo_pictures, snapshots_of
from tissuebench.tracking.about import About, about_result, comparison_of
from tissuebench.tracking.leaderboard_content import BoardContent, curves
from tissuebench.tracking.live import LiveRuns
from tissuebench.tracking.log_end import end_of_log, without_secrets
from tissuebench.tracking.reach import why_offline
from tissuebench.tracking.report import CURVES, SCORE, ReportDefinition
from tissuebench.tracking.upload import is_sent, save_report, sync
from tissuebench.tracking.wandb_run import CurveLog, lines_of, open_run

_NOT_ANNOTATED = 255
_NOT_INSTALLED = "it needs wandb-workspaces: pip install 'tissuebench[wandb-report]'"
_FAILED = 1  # exit code


class Tracker:
    """Writes runs into ``home/runs/wandb`` and sends them.

    Args:
        home: folder with ``runs/``.
        project: W&B project.
        stall_seconds: how long the server may take for one run before nothing more is sent.
    """

    def __init__(self, home: Path, project: str, stall_seconds: float) -> None:
        self._home = home
        self._project = project
        self._stall_seconds = stall_seconds
        self._store = ResultStore(results_folder(home))
        self._published = home / "runs" / "published.json"
        self._saved_reports = home / "runs" / "published_reports.json"
        self.folder = home / "runs" / "wandb"
        self._reports = self.folder / "reports"
        self._reports.mkdir(parents=True, exist_ok=True)
        self._offline = why_offline()
        self._live = LiveRuns(home, project, stall_seconds)
        self._asked: set[str] = set()
        self._failed: dict[str, str] = {}
        self._no_report = ""

    def follow(self, about: About) -> None:
        """Show a trial that now trains live, if the server responds. What an earlier failure left unsent is dropped."""
        with exclusive(self.folder):
            published = _read(self._published)
            if published.pop(about.run_id, None) is not None:
                self._drop_unsent(about.run_id)
                self._note_published(published)
        if not self._offline:
            self._live.follow(about)

    def leave(self, trial_id: str) -> None:
        """End what is live of a trial that another runner has taken over, and shows."""
        self._live.end(trial_id, 0)

    def failed(self, about: About) -> None:
        """Write one run for a failed trial: its curves as far as they go, the reason, and the end of its log."""
        self._live.end(about.run_id, _FAILED)
        self._asked.add(about.run_id)
        with self._at_the_cost_of(about.run_id):
            self._write_failed(about)

    def trial(self, trial_id: str) -> None:
        """Write one run for a finished trial: configuration, curves and scores. Repeated calls do nothing."""
        self._live.end(trial_id, 0)
        if trial_id in self._asked:
            return
        self._asked.add(trial_id)
        if _read(self._published).get(trial_id, [""])[0] == trial_id:
            return
        with self._at_the_cost_of(trial_id):
            for result in self._store.load([trial_id]):
                self._write_trial(result)

    def board(
        self,
        rows: Sequence[Mapping[str, Json]],
        trial_ids: Sequence[str],
        efficiency: Sequence[Mapping[str, Json]] = (),
    ) -> None:
        """Write the finished trials, then their tables; tables are written again only if something in them has changed.

        Args:
            rows: fields of each ``LeaderboardRow``.
            trial_ids: trials that may be compared with each other.
            efficiency: fields of each ``EfficiencyRow``.
        """
        finished = [trial_id for trial_id in trial_ids if self._store.has(trial_id)]
        for trial_id in finished:
            self.trial(trial_id)
        readable = [trial_id for trial_id in finished if trial_id not in self._failed]
        if not readable:
            return
        results = self._store.load(readable)
        run_id = f"leaderboard-{comparison_of(results[0].identity)}"
        self._asked.add(run_id)
        with self._at_the_cost_of(run_id):
            self._write_board(run_id, results, rows, efficiency)

    def send(self) -> None:
        """Send everything written and not yet sent, also by earlier runs; gives up for good at the first failure."""
        with exclusive(self.folder):
            if self._offline:
                return
            waiting = self._waiting()
            if waiting and sync(waiting, self.folder.parent, self._stall_seconds):
                self._offline = f"no answer for {self._stall_seconds:g} s"
            elif self._waiting():
                self._offline = "the server or the key was refused"
            else:
                self._send_reports()
        if self._offline:
            self._live.close()

    def close(self) -> None:
        """End what is live."""
        self._live.close()

    def note(self) -> str:
        """Return one sentence or two on what was logged, and where it is."""
        boards = sorted(run_id for run_id in self._asked if run_id.startswith("leaderboard-"))
        waiting = len(self._waiting())
        if waiting:
            line = (
                f"{_runs(waiting)} for W&B {'waits' if waiting == 1 else 'wait'} in {self.folder} ({self._offline}): "
                f"'wandb sync {self.folder}' sends them"
            )
            line += ", and the next run that is online writes their report" if boards else ""
        else:
            leaderboard, n_runs = " and the leaderboard" if boards else "", len(self._asked) - len(boards)
            are = "is" if n_runs == 1 and not boards else "are"
            line = f"{_runs(n_runs)}{leaderboard} {are} on W&B, in project {self._project}"
            if self._no_report:
                line += f"; the report is not ({self._no_report})"
            elif boards:
                saved = _read(self._saved_reports)
                line += "".join(f"; the report is at {saved[run_id][2]}" for run_id in boards if run_id in saved)
        if self._failed:
            run_id, reason = next(iter(self._failed.items()))
            line += f"; {len(self._failed)} could not be written, among them {run_id} ({reason})"
        return line

    def _write_trial(self, result: TrialResult) -> None:
        scores = {row.metric: row.mean for row in build([result]).rows if row.mean is not None}
        trial = Found(self._home, TaskKind.TRIAL, result.trial_id)
        pictures = {f"pseudo_masks/{stage}": path for stage, path in pseudo_pictures(trial).items()}
        pictures |= {f"snapshots/{stage}": path for stage, (_, path) in snapshots_of(trial).items()}
        chosen = [tile for tile in read_overlays(self._home, result.trial_id) if tile.reason == "chosen"]

        def fill(run: wandb.Run) -> None:
            CurveLog(run).add(lines_of(trial))
            images = {name: wandb.Image(str(path)) for name, path in pictures.items()}
            for number, tile in enumerate(chosen, start=1):  # the same tile has the same key in every run
                caption = f"{tile.slide_id} y={tile.y} x={tile.x}, {tile.accuracy:.3f} of its pixels correct"
                masks = {"truth": tile.truth, "prediction": tile.prediction}
                images[f"overlays/tile_{number}"] = _masked(tile.image, masks, result.classes, caption)
            if images:
                run.log(images)
            of_training = (MIOU, COVERAGE)  # a diagnostic, and not of the test part
            named = {name if name.startswith(of_training) else f"test/{name}": each for name, each in scores.items()}
            run.summary.update(named)
            run.summary.update({f"seconds/{name}": value for name, value in result.seconds.items()})
            run.summary.update({f"compute/{name}": value for name, value in result.compute.items()})

        self._write(about_result(result), result.trial_id, fill)

    def _write_failed(self, about: About) -> None:
        trial = Found(self._home, TaskKind.TRIAL, about.run_id)
        failure = read_failure(trial.home, trial.kind, trial.key)
        if failure is None:
            return
        reason, log = without_secrets(failure.reason), end_of_log(trial.log) or without_secrets(failure.traceback)

        def fill(run: wandb.Run) -> None:
            CurveLog(run).add(lines_of(trial))
            run.summary["failure"] = reason
            path = Path(run.dir) / "end_of_log.txt"
            path.write_text(log)
            run.save(path, base_path=run.dir, policy="now")

        self._write(about, content_hash([reason, log]), fill, _FAILED)

    def _write_board(
        self,
        run_id: str,
        results: Sequence[TrialResult],
        rows: Sequence[Mapping[str, Json]],
        efficiency: Sequence[Mapping[str, Json]],
    ) -> None:
        board = BoardContent.collect(self._home, comparison_of(results[0].identity), results, rows, efficiency)

        def fill(run: wandb.Run) -> None:
            logged: dict[str, object] = {
                name: wandb.Table(columns=list(table.columns), data=[list(row) for row in table.data])
                for name, table in board.tables().items()
            }
            if board.tiles:
                logged["overlays"] = _overlay_table(board)
            if lines := curves(rows):
                xs = [[minutes for minutes, _ in points] for points in lines.values()]
                ys = [[mean for _, mean in points] for points in lines.values()]
                title = f"{SCORE} over minutes of an annotator"
                logged[CURVES] = wandb.plot.line_series(xs, ys, list(lines), title=title, xname="minutes")
            run.log(logged)
            for row in rows:
                if row["mean"] is not None:
                    run.summary[f"{row['metric']}/{row['method']}/{row['budget']}"] = row["mean"]

        about = About(
            run_id,
            name=f"leaderboard {board.dataset}",
            group=f"{board.dataset}/leaderboard",
            job_type="leaderboard",
            tags=[f"tissuebench {__version__}", board.dataset],
            config={"dataset": board.dataset, "comparison": board.comparison},
        )
        self._write(about, board.hash, fill)
        entity = wandb.setup(wandb.Settings(silent=True)).settings.entity or ""
        definition = board.definition(run_id, self._project, entity)
        with exclusive(self.folder):
            write_aside(self._reports / f"{run_id}.json", definition.to_json().encode())

    def _send_reports(self) -> None:
        """Save the reports whose definition has changed since they were last saved; stops at the first that fails."""
        saved = _read(self._saved_reports)
        for path in sorted(self._reports.glob("leaderboard-*.json")):
            if self._no_report:
                return
            try:
                definition = ReportDefinition.from_json(path.read_text())
            except (ValueError, TypeError, KeyError):
                self._no_report = f"{path} is damaged: delete it"
                return
            content, view_id, _ = saved.get(definition.run_id, ("", "", ""))
            if content == definition.hash:
                continue
            done = save_report(path, view_id, self._stall_seconds)
            if done.error:
                self._no_report = _NOT_INSTALLED if done.error == "no wandb_workspaces" else done.error
                return
            saved[definition.run_id] = [definition.hash, done.view_id, done.url]
            write_aside(self._saved_reports, json.dumps(saved, indent=1, sort_keys=True).encode())

    def _write(self, about: About, content: str, fill: Callable[[wandb.Run], None], exit_code: int = 0) -> None:
        """Write an offline run and note it as published once it is complete, unless its content was published before.

        A folder of the same id that was not sent is out of date, or was left incomplete by a process that was killed.
        """
        with exclusive(self.folder):
            published = _read(self._published)
            if published.get(about.run_id, [""])[0] == content:
                return
            self._drop_unsent(about.run_id)
            with open_run(about, self._project, self.folder.parent) as run:
                folder = Path(run.dir).parent
                fill(run)
                run.finish(exit_code)
            published[about.run_id] = [content, folder.name]
            self._note_published(published)

    def _drop_unsent(self, run_id: str) -> None:
        for log in self.folder.glob(f"offline-run-*/run-{run_id}.wandb"):
            if not is_sent(log.parent):
                shutil.rmtree(log.parent)

    def _note_published(self, published: Mapping[str, list[str]]) -> None:
        write_aside(self._published, json.dumps(published, indent=1, sort_keys=True).encode())

    @contextmanager
    def _at_the_cost_of(self, run_id: str) -> Iterator[None]:
        """Limit errors from a damaged file, a full disk or W&B to this one run, until the next command."""
        try:
            yield
        except Exception as error:
            self._failed[run_id] = " ".join(str(error).split()) or type(error).__name__

    def _waiting(self) -> list[Path]:
        """Return complete folders that were not sent; a missing one was sent and tidied away by ``wandb clean``."""
        folders = [self.folder / name for _, name in _read(self._published).values()]
        return [folder for folder in folders if folder.is_dir() and not is_sent(folder)]


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _read(path: Path) -> dict[str, list[str]]:
    """Read the notes by run id: its content, and where it went (name of a folder; for a report, id and URL)."""
    if not path.is_file():
        return {}
    try:
        noted: dict[str, list[str]] = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); delete it (the runs keep their ids)") from error
    return noted


def _overlay_table(board: BoardContent) -> wandb.Table:
    """Build a table with one row per tile: slide, picture, truth, and the prediction of each method."""
    table = wandb.Table(columns=["slide", "image", "truth", *board.methods])
    for one in board.tiles:
        truth = _masked(one.tile.image, {"truth": one.tile.truth}, board.classes)
        predicted = {
            method: _masked(one.tile.image, {"prediction": path}, board.classes)
            for method, path in one.predictions.items()
        }
        where = f"{one.tile.slide_id} y={one.tile.y} x={one.tile.x}"
        table.add_data(where, wandb.Image(str(one.tile.image)), truth, *map(predicted.get, board.methods))
    return table


def _masked(image: Path, masks: Mapping[str, Path], classes: Sequence[str], caption: str | None = None) -> wandb.Image:
    """Return a picture with masks that the page can toggle; a palette PNG read as an array gives its class ids."""
    labels = {**dict(enumerate(classes)), _NOT_ANNOTATED: "not annotated"}
    layers = {}
    for name, path in masks.items():
        with Image.open(path) as mask:
            layers[name] = {"mask_data": np.asarray(mask), "class_labels": labels}
    names = [{"id": number, "name": label} for number, label in labels.items()]
    return wandb.Image(str(image), caption=caption, masks=layers, classes=names)
