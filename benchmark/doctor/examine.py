"""Examination of this machine: all subjects at once, each in a process of its own that may take so long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from tissuebench.doctor.finding import Finding, State, note
from tissuebench.doctor.privacy import masked
from tissuebench.doctor.subject import Subject, subject_of

SUBJECTS = tuple(f"tissuebench.doctor.{name}" for name in ("software", "hardware", "gpus", "home", "hub", "tracking"))
"""Modules of the subjects, in the order of the report."""
_TO_READ = 0.5
"""Seconds to take what a process printed long ago, while another one was waited for."""
_TO_CLEAN_UP = 1.0
"""Seconds for a process that was told to stop, which removes its files first."""


def examine(home: Path, subjects: Sequence[str] = SUBJECTS) -> Iterator[Finding]:
    """Yield what all checks find, in the order of the subjects, each as soon as its subject is done.

    A check that fails, or does not answer in time, yields a note. Nothing is left in ``home``, and it is not created.

    Args:
        home: folder that holds, or will hold, ``data/`` and ``runs/``.
        subjects: modules, each with its ``SUBJECT``.

    Examples:
        >>> [finding.name for finding in examine(Path("."))][:2]
        ['Python', 'TissueBench']
    """
    home = Path(os.path.abspath(home))  # noqa: PTH100 - resolve() would ask a file system that may not answer
    started = time.monotonic()
    running = [(subject_of(module), _start(module, home)) for module in subjects]
    try:
        while running:
            subject, process = running[0]
            found = _findings(subject, process, started + subject.seconds)
            running.pop(0)
            for finding in found:
                yield replace(finding, found=masked(finding.found), advice=masked(finding.advice))
    finally:
        for _, process in running:
            _stop(process)


def _start(module: str, home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", "-m", "tissuebench.doctor.probe", module, str(home)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # it is stopped with everything that it started
    )


def _findings(subject: Subject, process: subprocess.Popen[bytes], until: float) -> list[Finding]:
    """Return the findings of one subject, with a note for each check that did not report to the end."""
    why = ""
    try:
        said, _ = process.communicate(timeout=max(_TO_READ, until - time.monotonic()))
        if process.returncode:
            why = f"its process ended with {_name_of(process.returncode)}"
    except subprocess.TimeoutExpired as late:
        said, why = _stop(process) or late.output or b"", f"no answer within {subject.seconds:g} s"
    found: dict[str, list[Finding]] = {name: [] for name in subject.checks}
    missing = list(subject.checks)
    for line in said.splitlines():
        with suppress(ValueError):  # the last line of a process that was stopped may be cut off
            record = json.loads(line)
            if record["finding"] is None:
                missing.remove(record["check"])
            else:
                found[record["check"]].append(Finding(**record["finding"]))
    for name in missing:
        found[name].append(note(name, f"could not be checked: {why}", subject.advice))
    return [replace(each, state=State(each.state)) for findings in found.values() for each in findings]


def _name_of(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"


def _stop(process: subprocess.Popen[bytes]) -> bytes:
    """End a process and all that it started, and return what it printed.

    One that waits for a disk cannot be ended: it removes its files and ends when the disk answers.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_TO_CLEAN_UP)[0]
        with suppress(psutil.Error):
            if psutil.Process(process.pid).status() == psutil.STATUS_DISK_SLEEP:
                break
    return b""
