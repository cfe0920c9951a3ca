"""Process that examines one subject: ``python -m tissuebench.doctor.probe MODULE HOME``; prints its findings as JSON.

A line per finding, and one more, without a finding, when a check is done.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from tissuebench.doctor.finding import Finding, note, reason
from tissuebench.doctor.subject import Check, subject_of


def main() -> None:
    """Run the checks of a subject one after another; what is found is printed at once."""
    signal.signal(signal.SIGTERM, _stop)
    module, home = sys.argv[1:]
    with os.fdopen(os.dup(1), "w") as reports:
        os.dup2(2, 1)  # what libraries print is no finding

        def report(check: str, finding: Finding | None) -> None:
            record = {"check": check, "finding": None if finding is None else asdict(finding)}
            print(json.dumps(record), file=reports, flush=True)

        subject = subject_of(module)
        for name, look in subject.checks.items():
            for finding in _isolated(name, look, Path(home), subject.advice):
                report(name, finding)
            report(name, None)


def _isolated(name: str, look: Check, home: Path, advice: str) -> Iterator[Finding]:
    try:
        yield from look(home)
    except Exception as error:  # a check meets broken parts of all kinds: the others go on
        yield note(name, f"could not be checked: {reason(error)}", advice)


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # files are removed on the way out


if __name__ == "__main__":
    main()
