"""Weights & Biases, offline first: a copy of what is stored here, never the source of a number.

Each finished trial becomes one run whose id is the trial id, and the table becomes one leaderboard run. Everything is
published after the fact from the stored results, so an interrupted or resumed trial never leaves half a run behind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

import wandb

from tissuebench.files import write_aside
from tissuebench.hashing import content_hash
from tissuebench.results.leaderboard import Leaderboard, Row, build
from tissuebench.results.schema import TrialResult

_ANSWER_SECONDS = 3.0
_INIT_SECONDS = 15.0
_FINISH_SECONDS = 30
_DEFAULT_URL = "https://api.wandb.ai"
_PUBLISHED = "published.json"


class Tracker:
    """Publishes results to W&B, online if that works within seconds, otherwise into a folder for ``wandb sync``.

    Args:
        folder: where offline runs and the list of what was published are kept.
        project: W&B project; ``WANDB_PROJECT`` wins.
    """

    def __init__(self, folder: Path, project: str = "tissuebench") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._project = os.environ.get("WANDB_PROJECT", project)
        self.mode = "online" if _server_answers() else "offline"
        path = folder / _PUBLISHED
        self._published: dict[str, list[str]] = json.loads(path.read_text()) if path.exists() else {}

    def publish_trial(self, result: TrialResult, history: Path) -> None:
        """One run for a trial: its configuration, loss curve and scores. Does nothing the second time."""
        if self._is_published(result.trial_id, result.trial_id):
            return
        scores = {row.metric: row.mean for row in build([result], n_boot=2).rows if row.mean is not None}
        config = {**result.identity, "minutes": result.minutes, "replicate": result.replicate, "budget": result.budget}
        with self._run(
            run_id=result.trial_id,
            name=f"{result.method} {result.budget} r{result.replicate} s{result.seed}",
            group=f"{result.dataset}/{result.method}/{result.budget}",
            job_type="train",
            config=config,
        ) as run:
            if history.is_file():
                for line in history.read_text().splitlines():
                    point = json.loads(line)
                    run.log({"train/loss": point["loss"]}, step=point["step"])
            run.summary.update({f"test/{name}": value for name, value in scores.items()})
            run.summary.update({f"seconds/{name}": value for name, value in result.seconds.items()})
            run.summary.update({f"compute/{name}": value for name, value in result.compute.items()})
        self._mark(result.trial_id, result.trial_id)

    def publish_board(self, board: Leaderboard, dataset: str, key: str) -> None:
        """One run with the table; published again only when a number in it has changed."""
        rows = [asdict(row) for row in board.rows]
        content, run_id = content_hash(rows), f"leaderboard-{key[:16]}"
        if self._is_published(run_id, content):
            return
        columns: list[str | int] = [field.name for field in fields(Row)]
        with self._run(
            run_id, f"leaderboard {dataset}", f"{dataset}/leaderboard", "leaderboard", {"dataset": dataset}
        ) as run:
            table = wandb.Table(columns=columns, data=[list(row.values()) for row in rows])
            run.log({"leaderboard": table})
            for row in board.rows:
                if row.mean is not None:
                    run.summary[f"{row.metric}/{row.method}/{row.budget}"] = row.mean
        self._mark(run_id, content)

    @contextmanager
    def _run(
        self, run_id: str, name: str, group: str, job_type: str, config: Mapping[str, object]
    ) -> Iterator[wandb.Run]:
        settings = wandb.Settings(
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
            console="off",
            silent=True,
            x_disable_stats=True,
            x_disable_meta=True,
            disable_git=True,
            save_code=False,
        )

        def start(mode: str) -> wandb.Run:
            return wandb.init(
                project=self._project,
                dir=self._folder,
                id=run_id,
                name=name,
                group=group,
                job_type=job_type,
                config=dict(config),
                mode=mode,  # type: ignore[arg-type]
                resume="allow",
                reinit="finish_previous",
                settings=settings,
            )

        try:
            run = start(self.mode)
        except wandb.errors.Error:
            wandb.teardown()  # the service that failed still holds the id
            self.mode = "offline"
            run = start("offline")
        try:
            yield run
        finally:
            run.finish()

    def _is_published(self, run_id: str, content: str) -> bool:
        return self._published.get(run_id) in ([content, self.mode], [content, "online"])

    def _mark(self, run_id: str, content: str) -> None:
        self._published[run_id] = [content, self.mode]
        write_aside(self._folder / _PUBLISHED, json.dumps(self._published, indent=1, sort_keys=True).encode())


def publish(results: Sequence[TrialResult], board: Leaderboard, folder: Path, trials: Path, key: str) -> str:
    """Publish trials and table; returns one line that says where. Never raises for a reason of W&B's."""
    if os.environ.get("WANDB_MODE") == "disabled":
        return "W&B: switched off (WANDB_MODE=disabled)"
    try:
        tracker = Tracker(folder)
        for result in results:
            tracker.publish_trial(result, trials / result.trial_id / "history.jsonl")
        if results:
            tracker.publish_board(board, results[0].dataset, key)
    except (wandb.errors.Error, OSError, ValueError) as error:
        return (
            f"W&B: not published ({' '.join(str(error).split()) or type(error).__name__}); all numbers are stored here"
        )
    finally:
        wandb.teardown()  # its service process ends with the run, whatever state it is in
    if tracker.mode == "online":
        return f"W&B: {len(results)} runs and the leaderboard are online"
    return f"W&B: offline, {len(results)} runs and the leaderboard in {folder}; 'wandb sync --sync-all' sends them"


def _server_answers() -> bool:
    """Whether the user has a key and the server can be reached within seconds: asked once a run, not once a trial."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return False
    url = urlsplit(os.environ.get("WANDB_BASE_URL", _DEFAULT_URL))
    connect = HTTPConnection if url.scheme == "http" else HTTPSConnection
    try:
        if not wandb.login(prompt=False, verify=False):
            return False
        connection = connect(url.hostname or "", url.port, timeout=_ANSWER_SECONDS)
        connection.request("GET", "/")
        connection.getresponse()  # any answer will do: the key is tried by the first run
    except (OSError, ValueError, HTTPException, wandb.errors.Error):
        return False
    return True
