"""Weights & Biases, offline first: a copy of the results stored here, never the source of a number.

Each finished trial becomes one run whose id is the trial id; each table becomes one leaderboard run. Every run is first
written offline, as a whole, into ``runs/wandb``, and noted in ``runs/published.json``. If the server responds, ``wandb
sync`` then sends the folder. No run is therefore ever started online: if a server fails midway, the data is complete on
disk in the form that ``wandb sync`` sends, to the same id and over the same lines of history, and the marker
``*.wandb.synced`` that it leaves records what the server has. After the first failure nothing more is sent.

The Report of a table (``tissuebench.tracking.report``) is sent last and noted in ``runs/published_reports.json``.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import numpy as np
import wandb
from PIL import Image

from tissuebench import __version__
from tissuebench.common.files import exclusive, write_aside
from tissuebench.common.hashing import Json
from tissuebench.errors import DataError
from tissuebench.results.records.overlays import read_overlays
from tissuebench.results.records.pseudo_mask_quality import COVERAGE, MIOU
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.comparable import comparison_key, results_folder
from tissuebench.results.tables.leaderboard import build
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.view.lookup import Found, pseudo_pictures, snapshots_of
from tissuebench.tracking.leaderboard_content import BoardContent, curves
from tissuebench.tracking.report import CURVES, SCORE, ReportDefinition
from tissuebench.tracking.upload import is_sent, save_report, sync

_ANSWER_SECONDS = 3.0
_NOT_ANNOTATED = 255
_NOT_INSTALLED = "it needs wandb-workspaces: pip install 'tissuebench[wandb-report]'"
_TAG_CHARACTERS, _GROUP_CHARACTERS = 64, 128  # W&B's limits; a method with many changed settings has a long name


@dataclass(frozen=True, slots=True)
class _About:
    """Metadata of a run in W&B; ``content`` is equal if nothing in the run has changed."""

    run_id: str
    content: str
    name: str
    group: str
    job_type: str
    tags: Sequence[str]
    config: Mapping[str, Json]


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
        self._offline = _why_offline()
        self._asked: set[str] = set()
        self._failed: dict[str, str] = {}
        self._no_report = ""

    def trial(self, trial_id: str) -> None:
        """Write one run for a finished trial: configuration, loss curve and scores. Repeated calls do nothing."""
        if trial_id in self._asked:
            return
        self._asked.add(trial_id)
        if trial_id in _read(self._published):
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
        run_id = f"leaderboard-{_comparison(results[0])}"
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
            leaderboard = " and the leaderboard" if boards else ""
            line = f"{_runs(len(self._asked) - len(boards))}{leaderboard} are on W&B, in project {self._project}"
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
        curve = trial.folder / "history.jsonl"
        pictures = {f"pseudo_masks/{stage}": path for stage, path in pseudo_pictures(trial).items()}
        pictures |= {f"snapshots/{stage}": path for stage, (_, path) in snapshots_of(trial).items()}
        chosen = [tile for tile in read_overlays(self._home, result.trial_id) if tile.reason == "chosen"]

        def fill(run: wandb.Run) -> None:
            run.define_metric("train/step", hidden=True, summary="none")
            run.define_metric("train/loss", step_metric="train/step")
            if curve.is_file():
                for point in map(json.loads, curve.read_text().splitlines()):
                    run.log({"train/loss": point["loss"], "train/step": point["step"]}, step=point["step"])
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

        about = _About(
            result.trial_id,
            content=result.trial_id,
            name=f"{result.method} {result.budget} r{result.replicate} s{result.seed}",
            group=f"{result.dataset}/{result.method}/{result.budget}",
            job_type="train",
            tags=_tags(result),
            config={
                **result.identity,
                "comparison": _comparison(result),
                "dataset": result.dataset,
                "method": result.method,  # with its changed settings, which keeps variants apart when grouping runs
                "budget": result.budget,
                "minutes": result.minutes,
                "replicate": result.replicate,
                "seed": result.seed,
            },
        )
        self._write(about, fill)

    def _write_board(
        self,
        run_id: str,
        results: Sequence[TrialResult],
        rows: Sequence[Mapping[str, Json]],
        efficiency: Sequence[Mapping[str, Json]],
    ) -> None:
        board = BoardContent.collect(self._home, _comparison(results[0]), results, rows, efficiency)

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

        about = _About(
            run_id,
            content=board.hash,
            name=f"leaderboard {board.dataset}",
            group=f"{board.dataset}/leaderboard",
            job_type="leaderboard",
            tags=[f"tissuebench {__version__}", board.dataset],
            config={"dataset": board.dataset, "comparison": board.comparison},
        )
        self._write(about, fill)
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

    def _write(self, about: _About, fill: Callable[[wandb.Run], None]) -> None:
        """Write an offline run and note it as published once it is complete, unless its content was published before.

        A folder of the same id that was not sent is out of date, or was left incomplete by a process that was killed.
        """
        with exclusive(self.folder):
            published = _read(self._published)
            if published.get(about.run_id, [""])[0] == about.content:
                return
            for log in self.folder.glob(f"offline-run-*/run-{about.run_id}.wandb"):
                if not is_sent(log.parent):
                    shutil.rmtree(log.parent)
            with wandb.init(
                project=self._project,
                dir=self.folder.parent,
                id=about.run_id,
                name=about.name,
                group=about.group[:_GROUP_CHARACTERS],
                job_type=about.job_type,
                tags=[tag[:_TAG_CHARACTERS] for tag in about.tags],
                config=dict(about.config),
                mode="offline",
                reinit="finish_previous",
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    x_disable_stats=True,
                    x_disable_meta=True,
                    disable_git=True,
                    save_code=False,
                ),
            ) as run:
                folder = Path(run.dir).parent
                fill(run)
            published[about.run_id] = [about.content, folder.name]
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


def _comparison(result: TrialResult) -> str:
    return comparison_key(result)[:16]


def _tags(result: TrialResult) -> list[str]:
    packages = result.environment.get("packages")
    version = packages.get("tissuebench") if isinstance(packages, Mapping) else None
    tags = [f"tissuebench {version or __version__}", result.dataset, result.method, result.budget]
    if "protocol" in result.identity:
        tags.append(f"protocol {result.identity['protocol']}")
    return tags


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


def _why_offline() -> str:
    """Return the reason why nothing can be sent, or "". Called once per sweep; takes seconds at most."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        return f"WANDB_MODE={mode}"
    url = wandb.setup(wandb.Settings(silent=True)).settings.base_url  # else a login asks the server for a name
    try:
        if not wandb.login(prompt=False, verify=False):
            return "no API key: set WANDB_API_KEY"
    except (wandb.errors.Error, ValueError):
        return "the API key is malformed"
    try:
        urllib.request.urlopen(url, timeout=_ANSWER_SECONDS).close()  # noqa: S310 - wandb has checked its scheme
    except HTTPError:
        return ""  # it responds; the first run will show whether the key is valid
    except (OSError, ValueError):
        return f"no answer from {urlsplit(url).hostname}"
    return ""
