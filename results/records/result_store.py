"""The folder of results: one parquet file per finished trial, one JSON file per failed trial."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tissuebench.common.files import write_aside
from tissuebench.errors import DataError
from tissuebench.results.records.trial_result import TrialResult, check_trial_id, is_outdated


@dataclass(frozen=True)
class Failure:
    """A trial that did not finish: the reason, and its cell in the table.

    Attributes:
        reason: one line.
        traceback: full text; may be empty.
    """

    trial_id: str
    dataset: str
    method: str
    budget: str
    replicate: int
    seed: int
    reason: str
    traceback: str


class ResultStore:
    """Store of finished and failed trials in ``folder``, which is created on the first write.

    Examples:
        >>> results = ResultStore(Path("runs/results")).load()
        >>> sorted({result.dataset for result in results})
        ['synthetic']
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, trial_id: str) -> Path:
        """Return the result file of a trial, whether or not it exists; ``DataError`` if the id is malformed."""
        return self.folder / f"{check_trial_id(trial_id)}.parquet"

    def failure_path(self, trial_id: str) -> Path:
        """Return the failure file of a trial, whether or not it exists; ``DataError`` if the id is malformed."""
        return self.folder / "failures" / f"{check_trial_id(trial_id)}.json"

    def has(self, trial_id: str) -> bool:
        """Whether the trial has finished."""
        return self.path(trial_id).is_file()

    def write(self, result: TrialResult) -> None:
        """Store a finished trial and remove any earlier failure of the same trial."""
        result.write(self.path(result.trial_id))
        self.clear_failure(result.trial_id)

    def load(self, trial_ids: Iterable[str] | None = None) -> list[TrialResult]:
        """Load the results of these trials (all if None), ordered by trial id.

        Trials without a result are left out; the leaderboard shows them as gaps if they are among its expected cells.
        Of all, those that an earlier release wrote are left out, too (``n_outdated``).

        Raises:
            DataError: an id is malformed, or a file is damaged, foreign, or holds a different trial than its name says.
        """
        if trial_ids is None:
            paths = sorted(path for path in self.folder.glob("*.parquet") if not is_outdated(path))
        else:
            paths = [path for path in map(self.path, sorted(set(trial_ids))) if path.is_file()]
        results = []
        for path in paths:
            result = TrialResult.read(path)
            if result.trial_id != path.stem:
                raise DataError(f"{path}: holds trial {result.trial_id}; delete it and run its plan again")
            results.append(result)
        return results

    def n_outdated(self) -> int:
        """Return the number of results that an earlier release wrote, in another schema or by another protocol."""
        return sum(map(is_outdated, self.folder.glob("*.parquet")))

    def write_failure(self, failure: Failure) -> None:
        """Store the reason a trial failed, replacing any earlier one."""
        write_aside(self.failure_path(failure.trial_id), json.dumps(asdict(failure), indent=1, sort_keys=True).encode())

    def read_failures(self) -> list[Failure]:
        """Read all recorded failures, ordered by trial id, except those of trials that finished later.

        Raises:
            DataError: a file is damaged.
        """
        failures = []
        for path in sorted((self.folder / "failures").glob("*.json")):
            try:
                failure = Failure(**json.loads(path.read_bytes()))
                if failure.trial_id != path.stem:
                    raise ValueError(f"it is of trial {failure.trial_id}")
            except (OSError, ValueError, TypeError) as error:
                raise DataError(f"{path}: not a usable failure record ({error}); delete it") from error
            if not self.has(failure.trial_id):
                failures.append(failure)
        return failures

    def clear_failure(self, trial_id: str) -> None:
        """Delete the failure of a trial, if any."""
        self.failure_path(trial_id).unlink(missing_ok=True)
