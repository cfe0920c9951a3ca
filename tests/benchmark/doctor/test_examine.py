"""Subjects that raise, hang, crash or say too much: they cost their own lines only."""

from __future__ import annotations

import os
import time

import pytest

from tissuebench.doctor.examine import SUBJECTS, examine
from tissuebench.doctor.finding import Finding, State, note, ok
from tissuebench.doctor.subject import subject_of

PARTS = """
import os, signal, sys, time
from pathlib import Path
from tissuebench.doctor.finding import note, ok
from tissuebench.doctor.subject import Subject

def fine(home):
    print("noise of a library")
    yield ok("fine", f"in {home}")

def raises(home):
    yield ok("raises", "the first half")
    raise OSError(5, "Input/output error")

def raises_something_long(home):
    raise RuntimeError("one line\\nand a page of others")
    yield

def hangs(home):
    (home / "pid").write_text(str(os.getpid()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield ok("hangs", "so far")
    time.sleep(300)

def hangs_but_cleans_up(home):
    try:
        (home / "left").touch()
        (home / "was there").touch()
        time.sleep(300)
        yield
    finally:
        (home / "left").unlink()

def dies(home):
    os.kill(os.getpid(), signal.SIGSEGV)
    yield

def leaves(home):
    sys.exit(3)
    yield

SUBJECT = Subject({checks}, seconds={seconds}, advice="look yourself")
"""


@pytest.fixture
def examined(tmp_path, monkeypatch):
    """Examines with subjects of such parts; a tuple is one subject."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    home = tmp_path / "home"
    home.mkdir()

    def examined(*subjects: tuple[str, ...], seconds: float = 20.0) -> list[Finding]:
        modules = []
        for parts in subjects:
            checks = "{" + ", ".join(f"{part!r}: {part}" for part in parts) + "}"
            modules.append("parts_" + "_".join(parts))
            source = PARTS.replace("{checks}", checks).replace("{seconds}", str(seconds))
            (tmp_path / f"{modules[-1]}.py").write_text(source)
        return list(examine(home, modules))

    return examined


def test_a_check_that_raises_is_a_note_and_the_next_one_runs(examined):
    found = examined(("raises", "raises_something_long", "fine"))
    assert [finding.name for finding in found] == ["raises", "raises", "raises_something_long", "fine"]
    assert found[0] == ok("raises", "the first half")
    assert found[1] == note("raises", "could not be checked: Input/output error", "look yourself")
    assert found[2].found == "could not be checked: one line"
    assert (found[3].state, found[3].found.endswith("home")) == (State.OK, True)


def test_what_hangs_is_ended_in_time_with_what_it_had_found_and_removes_its_files(examined, tmp_path):
    started = time.monotonic()
    found = examined(("fine", "hangs", "dies"), ("leaves",), ("hangs_but_cleans_up",), seconds=4)
    assert time.monotonic() - started < 15
    said = {(finding.name, finding.found) for finding in found[1:]}
    assert said == {
        ("hangs", "so far"),
        ("hangs", "could not be checked: no answer within 4 s"),
        ("dies", "could not be checked: no answer within 4 s"),
        ("leaves", "could not be checked: its process ended with exit code 3"),
        ("hangs_but_cleans_up", "could not be checked: no answer within 4 s"),
    }
    assert [finding.name for finding in found[-2:]] == ["leaves", "hangs_but_cleans_up"]
    assert {path.name for path in (tmp_path / "home").iterdir()} == {"pid", "was there"}
    pid = int((tmp_path / "home" / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_crash_is_told_by_its_signal(examined):
    fine, died = examined(("fine", "dies"))
    assert fine.state is State.OK
    assert died == note("dies", "could not be checked: its process ended with SIGSEGV", "look yourself")


def test_a_reader_who_leaves_early_ends_all_processes(examined, tmp_path):
    examined(("fine",))
    (tmp_path / "parts_hangs.py").write_text(
        PARTS.replace("{checks}", "{'hangs': hangs}").replace("{seconds}", "60"),
    )
    findings = examine(tmp_path / "home", ["parts_fine", "parts_hangs"])
    assert next(findings).name == "fine"
    pid = tmp_path / "home" / "pid"
    while not pid.exists():
        time.sleep(0.05)
    findings.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_subjects_are_light_to_import_and_name_their_checks_once():
    names = [name for module in SUBJECTS for name in subject_of(module).checks]
    assert len(names) == len(set(names)) >= 20
    assert all(subject_of(module).seconds <= 20 for module in SUBJECTS)
