"""Weights & Biases, offline first: a copy of what is stored here, never the source of a number.

Each finished trial becomes one run whose id is the trial id; each table becomes one leaderboard run. Every run is first
written offline, whole, into ``runs/wandb``, and noted in ``runs/published.json``. If the server answers, ``wandb sync``
then sends the folder. So no run is ever begun online: whatever a server does in the middle, the data is complete on
disk in the form that ``wandb sync`` sends, to the same id and over the same lines of history, and the marker
``*.wandb.synced`` that it leaves says what the server has. After the first failure nothing more is sent.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import wandb

from tissuebench import __version__
from tissuebench.comparison import comparison_key, results_folder
from tissuebench.errors import DataError
from tissuebench.files import exclusive, write_aside
from tissuebench.hashing import Json, content_hash
from tissuebench.results.leaderboard import Row, build
from tissuebench.results.pseudo import COVERAGE, MIOU
from tissuebench.results.schema import TrialResult
from tissuebench.results.store import ResultStore
from tissuebench.sweep.jobs import NodeKind
from tissuebench.sweep.lookup import Found, looks, pseudo_pictures

_ANSWER_SECONDS = 3.0
_POLL_SECONDS = 0.1
_TAG_CHARACTERS, _GROUP_CHARACTERS = 64, 128  # W&B's limits; a method with many changed settings has a long name


@dataclass(frozen=True, slots=True)
class _About:
    """What W&B shows a run under; ``content`` is equal if nothing in it has changed."""

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
        self.folder = home / "runs" / "wandb"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._offline = _why_offline()
        self._asked: set[str] = set()
        self._failed: dict[str, str] = {}

    def trial(self, trial_id: str) -> None:
        """One run for a finished trial: its configuration, loss curve and scores. Does nothing the second time."""
        if trial_id in self._asked:
            return
        self._asked.add(trial_id)
        if trial_id in self._read_published():
            return
        with self._at_the_cost_of(trial_id):
            for result in self._store.load([trial_id]):
                self._write_trial(result)

    def board(self, rows: Sequence[Mapping[str, Json]], trial_ids: Sequence[str]) -> None:
        """The finished ones of these trials, then their table; written again only when a number in it has changed."""
        finished = [trial_id for trial_id in trial_ids if self._store.has(trial_id)]
        for trial_id in finished:
            self.trial(trial_id)
        readable = [trial_id for trial_id in finished if trial_id not in self._failed]
        if not readable:
            return
        (result,) = self._store.load(readable[:1])
        run_id = f"leaderboard-{comparison_key(result)[:16]}"
        self._asked.add(run_id)
        with self._at_the_cost_of(run_id):
            self._write_board(run_id, result.dataset, rows)

    def send(self) -> None:
        """Send what is written and not sent, by earlier runs too; gives up for good at the first sign of trouble."""
        with exclusive(self.folder):
            waiting = self._waiting()
            if self._offline or not waiting:
                return
            stalled = _sync(waiting, self.folder.parent, self._stall_seconds)
            if stalled:
                self._offline = f"no answer for {self._stall_seconds:g} s"
            elif self._waiting():
                self._offline = "the server or the key was refused"

    def note(self) -> str:
        """One line that says what is where."""
        boards = sum(run_id.startswith("leaderboard-") for run_id in self._asked)
        said = f"{len(self._asked) - boards} runs" + (" and the leaderboard" if boards else "")
        waiting = len(self._waiting())
        line = f"W&B: {said} are online"
        if waiting:
            line = f"W&B: offline ({self._offline}); {waiting} runs wait: 'wandb sync {self.folder}' sends them"
        if self._failed:
            run_id, reason = next(iter(self._failed.items()))
            line += f"; {len(self._failed)} could not be written, among them {run_id} ({reason})"
        return line

    def _write_trial(self, result: TrialResult) -> None:
        scores = {row.metric: row.mean for row in build([result], n_boot=2).rows if row.mean is not None}
        trial = Found(self._home, NodeKind.TRIAL, result.trial_id)
        curve = trial.folder / "history.jsonl"
        pictures = {f"pseudo_masks/{stage}": path for stage, path in pseudo_pictures(trial).items()}
        pictures |= {f"looks/{stage}": path for stage, (_, path) in looks(trial).items()}

        def fill(run: wandb.Run) -> None:
            if curve.is_file():
                for point in map(json.loads, curve.read_text().splitlines()):
                    run.log({"train/loss": point["loss"]}, step=point["step"])
            if pictures:
                run.log({name: wandb.Image(str(path)) for name, path in pictures.items()})
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
                "minutes": result.minutes,
                "replicate": result.replicate,
                "budget": result.budget,
            },
        )
        self._write(about, fill)

    def _write_board(self, run_id: str, dataset: str, rows: Sequence[Mapping[str, Json]]) -> None:
        columns = [field.name for field in fields(Row)]

        def fill(run: wandb.Run) -> None:
            data = [[row[column] for column in columns] for row in rows]
            run.log({"leaderboard": wandb.Table(columns=list(columns), data=data)})
            for row in rows:
                if row["mean"] is not None:
                    run.summary[f"{row['metric']}/{row['method']}/{row['budget']}"] = row["mean"]

        about = _About(
            run_id,
            content=content_hash(rows),
            name=f"leaderboard {dataset}",
            group=f"{dataset}/leaderboard",
            job_type="leaderboard",
            tags=[f"tissuebench {__version__}", dataset],
            config={"dataset": dataset},
        )
        self._write(about, fill)

    def _write(self, about: _About, fill: Callable[[wandb.Run], None]) -> None:
        """Write an offline run and note it as published once it is whole, unless its content was before.

        A folder of the same id that was not sent is out of date, or was left half-written by a process that was killed.
        """
        with exclusive(self.folder):
            published = self._read_published()
            if published.get(about.run_id, [""])[0] == about.content:
                return
            for log in self.folder.glob(f"offline-run-*/run-{about.run_id}.wandb"):
                if not _is_sent(log.parent):
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
        """Whatever a damaged file, a full disk or W&B raises costs this one run, until the next command."""
        try:
            yield
        except Exception as error:
            self._failed[run_id] = " ".join(str(error).split()) or type(error).__name__

    def _read_published(self) -> dict[str, list[str]]:
        """Run id -> its content, and the name of the folder it was written to."""
        if not self._published.is_file():
            return {}
        try:
            published: dict[str, list[str]] = json.loads(self._published.read_bytes())
        except ValueError as error:
            raise DataError(f"{self._published}: damaged ({error}); delete it, the runs keep their ids") from error
        return published

    def _waiting(self) -> list[Path]:
        """Folders that are whole and were not sent; one that is gone was sent and tidied away by ``wandb clean``."""
        folders = [self.folder / name for _, name in self._read_published().values()]
        return [folder for folder in folders if folder.is_dir() and not _is_sent(folder)]


def _tags(result: TrialResult) -> list[str]:
    packages = result.environment.get("packages")
    version = packages.get("tissuebench") if isinstance(packages, Mapping) else None
    tags = [f"tissuebench {version or __version__}", result.dataset, result.method, result.budget]
    if "protocol" in result.identity:
        tags.append(f"protocol {result.identity['protocol']}")
    return tags


def _is_sent(folder: Path) -> bool:
    return any(folder.glob("*.wandb.synced"))


def _sync(folders: Sequence[Path], cwd: Path, stall_seconds: float) -> bool:
    """``wandb sync`` in a process that can be ended; whether it had to be, after so long without a run getting through.

    It must not find the service of this process (``WANDB_SERVICE``), which would go on with what it was told.
    """
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    quiet = subprocess.DEVNULL  # what it says may be about the key
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", "wandb", "sync", *(str(folder.relative_to(cwd)) for folder in folders)],
        cwd=cwd,
        env=environment,
        stdin=quiet,
        stdout=quiet,
        stderr=quiet,
    )
    left, deadline = len(folders), time.monotonic() + stall_seconds
    while process.poll() is None:
        time.sleep(_POLL_SECONDS)
        still = sum(not _is_sent(folder) for folder in folders)
        if still < left:
            left, deadline = still, time.monotonic() + stall_seconds
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            return True
    return False


def _why_offline() -> str:
    """Why nothing can be sent, "" if nothing speaks against it. Asked once a sweep; takes seconds at most."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        return f"WANDB_MODE={mode}"
    url = wandb.setup(wandb.Settings(silent=True)).settings.base_url  # not silent, a login asks the server for a name
    try:
        if not wandb.login(prompt=False, verify=False):
            return "no API key"
    except (wandb.errors.Error, ValueError):
        return "the API key is malformed"
    try:
        urllib.request.urlopen(url, timeout=_ANSWER_SECONDS).close()  # noqa: S310 - wandb has checked its scheme
    except HTTPError:
        return ""  # an answer; whether the key is right, the first run will show
    except (OSError, ValueError):
        return f"no answer from {urlsplit(url).hostname}"
    return ""
