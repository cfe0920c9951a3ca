"""Home folders of every kind: absent, read-only, on a full disk, without locks; nothing is left in any of them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import time

import pytest

from tissuebench.doctor import home as subject
from tissuebench.doctor.examine import examine
from tissuebench.doctor.finding import Finding, State


def checked(home) -> dict[str, Finding]:
    """In a process of its own, as always."""
    return {finding.name: finding for finding in examine(home, ["tissuebench.doctor.home"])}


@pytest.fixture
def mounted(tmp_path):
    """Mounts small file systems: bytes, further options."""
    folders = []

    def mount(size: str, *options: str):
        if os.geteuid() != 0:
            pytest.skip("mounting needs root")
        folder = tmp_path / f"disk{len(folders)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "tmpfs", folder], capture_output=True
        )
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.decode()}")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_home_that_is_fine(tmp_path):
    found = checked(tmp_path)
    assert list(found) == ["home", "free space", "disk speed", "file locks", "replacing files"]
    assert State.FIX not in {finding.state for finding in found.values()}
    assert "writable, on " in found["home"].found
    assert found["file locks"].state is found["replacing files"].state is State.OK
    assert found["disk speed"].found.startswith("writes ")
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_does_not_exist_yet_is_not_made(tmp_path):
    found = checked(tmp_path / "later")
    assert set(found) == {"home", "free space"}
    assert found["home"].state is State.NOTE
    assert "does not exist yet" in found["home"].found
    assert "the first run creates it" in found["home"].advice
    assert not (tmp_path / "later").exists()


def test_a_mistyped_home_is_to_be_fixed(tmp_path):
    found = checked(tmp_path / "absent" / "later")
    assert set(found) == {"home"}
    assert found["home"].state is State.FIX
    (tmp_path / "file").touch()
    assert checked(tmp_path / "file")["home"].found.endswith("is not a folder")


def test_a_read_only_home(mounted):
    disk = mounted("200m")
    (disk / "runs").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    found = checked(disk)
    assert set(found) == {"home", "free space"}
    assert found["home"].state is State.FIX
    assert "cannot be written to (Read-only file system), on tmpfs" in found["home"].found
    assert "--home" in found["home"].advice
    assert checked(disk / "later")["home"].state is State.FIX  # nor can it be created there


def test_a_home_of_somebody_else(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(subject.Path, "mkdir", refused)
    (found,) = subject.place(tmp_path)
    assert found.state is State.FIX
    assert "cannot be written to (Permission denied)" in found.found


def test_a_full_disk(mounted):
    disk = mounted("1m")
    with (disk / "data").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    found = checked(disk)
    assert found["free space"].state is State.FIX
    assert found["free space"].found.startswith("0 kB of 1.05 MB")
    assert set(found) == {"home", "free space"}
    assert [path.name for path in disk.iterdir()] == ["data"]


def test_a_disk_without_room_for_one_more_file(mounted):
    disk = mounted("200m", "nr_inodes=3")
    (disk / "one").touch()
    (disk / "two").touch()
    found = checked(disk)
    assert found["home"].state is State.FIX
    assert "No space left on device" in found["home"].found
    assert found["free space"].state is State.FIX
    assert found["free space"].found.endswith("room for 0 files")
    assert set(found) == {"home", "free space"}


def test_a_quota_that_is_smaller_than_the_free_space(mounted, monkeypatch):
    """The file system says that there is room, and refuses to give it."""
    disk = mounted("20m")
    monkeypatch.setattr(subject, "_has_room", lambda home: True)
    (found,) = subject.speed(disk)
    assert found.state is State.FIX
    assert found.found == "64 MiB cannot be written (No space left on device)"
    assert list(disk.iterdir()) == []


def test_a_home_in_memory_is_told(mounted):
    found = checked(mounted("200m"))
    assert found["home"].state is State.NOTE
    assert "gone after a restart" in found["home"].advice
    assert found["free space"].state is State.NOTE
    assert found["file locks"].state is State.OK


@pytest.fixture
def frozen(tmp_path):
    """A file system on which every write waits, as on a dead network drive; and a function that makes it answer."""
    if os.geteuid() != 0 or not (shutil.which("mkfs.ext4") and shutil.which("fsfreeze")):
        pytest.skip("freezing a file system needs root, mkfs.ext4 and fsfreeze")
    image, folder = tmp_path / "image", tmp_path / "frozen"
    image.write_bytes(b"")
    os.truncate(image, 2**24)
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if (done := subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True)).returncode:
        pytest.skip(f"no image can be mounted here: {done.stderr.decode()}")
    is_frozen = subprocess.run(["fsfreeze", "--freeze", folder]).returncode == 0

    def thaw() -> None:
        subprocess.run(["fsfreeze", "--unfreeze", folder], check=True)

    try:
        if not is_frozen:
            pytest.skip("file systems cannot be frozen here")
        yield folder, thaw
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", folder], capture_output=True)
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_a_file_system_that_hangs_is_told_in_time_and_left_clean(frozen):
    folder, thaw = frozen
    started = time.monotonic()
    found = checked(folder)
    assert time.monotonic() - started < 15
    assert {finding.found for finding in found.values()} == {"could not be checked: no answer within 8 s"}
    assert {finding.state for finding in found.values()} == {State.NOTE}
    thaw()
    until = time.monotonic() + 10
    while time.monotonic() < until and [path.name for path in folder.iterdir()] != ["lost+found"]:
        time.sleep(0.1)
    time.sleep(0.5)
    assert [path.name for path in folder.iterdir()] == ["lost+found"]


def test_a_slow_disk_takes_no_longer_and_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(subject.os, "fsync", lambda handle: time.sleep(0.3))  # 4 MiB each: 14 MB/s
    started = time.monotonic()
    (found,) = subject.speed(tmp_path)
    assert time.monotonic() - started < 4
    assert found.state is State.NOTE
    assert found.found.startswith("writes 1")


def test_locks_that_keep_nobody_out(tmp_path, monkeypatch):
    monkeypatch.setattr(subject.fcntl, "flock", lambda handle, how: None)
    (found,) = subject.locks(tmp_path)
    assert (found.state, found.found) == (State.NOTE, "two processes held the same lock at once")


def test_no_locks_at_all(tmp_path, monkeypatch):
    def missing(handle, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(subject.fcntl, "flock", missing)
    (found,) = subject.locks(tmp_path)
    assert (found.state, found.found) == (State.NOTE, "none on this file system (No locks available)")
    assert "one command at a time" in found.advice


def test_locks_of_a_network_drive_that_hold_on_this_machine_only(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "_file_system", lambda folder: ("nfs4", ["rw", "local_lock=all"]))
    (found,) = subject.locks(tmp_path)
    assert (found.state, found.found) == (State.NOTE, "work on this machine only (nfs4, local_lock=all)")


def test_a_lock_that_is_kept_is_noticed_by_the_second_process(tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert subject._second_process(tmp_path) == 3
    os.close(handle)
    assert subject._second_process(tmp_path) == 0


def test_a_file_system_that_replaces_in_two_steps(tmp_path, monkeypatch):
    def in_two_steps(path, data):
        path.unlink()
        time.sleep(0.01)
        path.write_bytes(data)

    monkeypatch.setattr(subject, "replace_quickly", in_two_steps)
    (found,) = subject.replacing(tmp_path)
    assert found.state is State.FIX
    assert "a reader saw: " in found.found


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(mounted):
    disk = mounted("2m", "noexec")
    (disk / "runs").mkdir()
    (disk.parent / "link").symlink_to(disk / "runs")
    kind, options = subject._file_system(disk.parent / "link")
    assert kind == "tmpfs"
    assert "noexec" in options
    assert subject._file_system(disk.parent)[0] != kind or "noexec" not in subject._file_system(disk.parent)[1]
