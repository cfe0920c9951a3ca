"""Contents of the report: stored results, failures, pictures, and the provenance of it all. Never imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tissuebench.common.hashing import Json
from tissuebench.datasets.ingest.dataset import find_dataset
from tissuebench.errors import DataError, TissueBenchError
from tissuebench.results.records.curves import read_curves
from tissuebench.results.records.overlays import read_overlays
from tissuebench.results.records.result_store import Failure, ResultStore
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.report.subject import Subject
from tissuebench.results.tables.comparable import Group, results_folder, with_remark
from tissuebench.results.tables.leaderboard import build
from tissuebench.sweep.jobs import Job, TaskKind
from tissuebench.sweep.state.folders import JOB, task_folder

_SHARED = ("store", "split", "network", "training", "augmentation", "evaluation")


def subjects(home: Path, groups: Sequence[Group]) -> list[Subject]:
    """Return one subject per group of comparable results in ``home``."""
    failures = ResultStore(results_folder(home)).read_failures()
    return [
        _subject(home, group, [one for one in failures if _belongs(home, one, group.results[0])]) for group in groups
    ]


def _subject(home: Path, group: Group, failures: Sequence[Failure]) -> Subject:
    curves = {
        result.trial_id: read_curves(task_folder(home, TaskKind.TRIAL, result.trial_id)) for result in group.results
    }
    pictures = {result.trial_id: read_overlays(home, result.trial_id) for result in group.results}
    return Subject(
        dataset=group.dataset,
        board=with_remark(build(group.results, failures=failures), group),
        results=group.results,
        failures=failures,
        overlays={trial_id: tiles for trial_id, tiles in pictures.items() if tiles},
        provenance={"data set": facts_of_data(home, group.results[0])},
        curves={trial_id: of_trial for trial_id, of_trial in curves.items() if any(of_trial.values())},
    )


def _belongs(home: Path, failure: Failure, like: TrialResult) -> bool:
    """Return whether the failed trial had the data and the shared settings of a result, according to its job."""
    if failure.dataset != like.dataset:
        return False
    try:
        job = Job.from_json((task_folder(home, TaskKind.TRIAL, failure.trial_id) / JOB).read_text())
        trial: Any = job.document["trial"]
        identity: Any = trial["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return True  # it never had one: a stage before it failed; better shown than left out
    return all(like.identity.get(name) == identity[name] for name in _SHARED)


def facts_of_data(home: Path, result: TrialResult) -> dict[str, Json]:
    """Return title, licence and source from the recipe, and resolution and assumed costs from the store."""
    said: dict[str, Json] = {"name": result.dataset, "store sha256": result.identity.get("store")}
    try:
        recipe = find_dataset(result.dataset, None, home)
        said |= {"title": recipe.title, "licence": recipe.licence, "source": recipe.source}
    except TissueBenchError:  # its description is no longer there
        said["licence"] = "not stated"
    content = _manifest(home / "data" / result.dataset / "store.zarr" / "manifest.json")
    if content:
        said |= {"micrometres per pixel": content.get("mpp"), "tile (px)": content.get("tile_px")}
        costs: Any = content.get("costs", {})
        said["assumed costs"] = {name.replace("_", " "): value for name, value in costs.items()}
    return said


def _manifest(path: Path) -> Mapping[str, Json]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_bytes())
        content: dict[str, Json] = document["content"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); ingest the data set again") from None
    return content
