"""Records of failures: in the task's folder, and for a trial also in the results, to explain its gap in the table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tissuebench.common.files import write_aside
from tissuebench.errors import DataError
from tissuebench.results.records.curves import CURVES_FILE
from tissuebench.results.records.result_store import Failure, ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.jobs import Job, TaskKind
from tissuebench.sweep.state.folders import task_folder

_FAILURE = "failure.json"


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """Reason for a task's failure.

    Attributes:
        reason: one line.
        traceback: the full text, or the end of the log if the process was killed; may be empty.
        skipped: the task was not run at all, as a task that it needs has failed.
    """

    reason: str
    traceback: str = ""
    skipped: bool = False


def keep_failure(job: Job, failure: TaskFailure) -> None:
    """Record a failure; raises ``OSError`` if nothing can be written."""
    if not failure.skipped:
        content = json.dumps(asdict(failure), indent=1).encode()
        write_aside(task_folder(job.home, job.kind, job.key) / _FAILURE, content)
    if job.kind is TaskKind.TRIAL:
        from tissuebench.plans.trial import Trial  # seconds of imports, not needed for reading only

        trial = Trial.of_document(job.document["trial"])  # type: ignore[arg-type]  # JSON that we wrote
        ResultStore(results_folder(job.home)).write_failure(
            Failure(
                trial_id=trial.id,
                dataset=trial.dataset,
                method=trial.arm,
                budget=trial.budget.spec,
                replicate=trial.budget.replicate,
                seed=trial.seed,
                reason=failure.reason,
                traceback=failure.traceback,
            )
        )


def read_failure(home: Path, kind: TaskKind, key: str) -> TaskFailure | None:
    """Return the recorded failure of a task, if it has failed."""
    path = task_folder(home, kind, key) / _FAILURE
    try:
        return TaskFailure(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a usable failure record ({error}); delete it") from error


def forget_failure(home: Path, kind: TaskKind, key: str) -> None:
    """Remove the recorded failure, and the curves of that attempt, so that the task is run again."""
    folder = task_folder(home, kind, key)
    if (failure := folder / _FAILURE).is_file():
        (folder / CURVES_FILE).unlink(missing_ok=True)
        failure.unlink()
    if kind is TaskKind.TRIAL:
        ResultStore(results_folder(home)).clear_failure(key)
