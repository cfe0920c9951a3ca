"""Leases: one owner, dead owners seen, abandoned ones taken over, nothing stored by one who lost his."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import psutil
import pytest

from tissuebench.sweep.state.leases import Lease, Owner, acquire, holder_of


def write(folder, owner):
    (folder / "lease.json").write_text(json.dumps(asdict(owner)))


def nothing():
    pass


def test_the_second_is_told_who_has_it_until_it_is_given_back(tmp_path):
    lease = acquire(tmp_path, nothing)
    assert isinstance(lease, Lease)
    holder = acquire(tmp_path, nothing)
    assert isinstance(holder, Owner)
    assert "process" in str(holder)
    lease.release()
    assert holder_of(tmp_path) is None
    assert isinstance(acquire(tmp_path, nothing), Lease)


def test_a_dead_owner_on_this_machine_is_worth_nothing_at_once(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = replace(Owner.this_process(), pid=child.pid, started=psutil.Process(child.pid).create_time())
    write(tmp_path, owner)
    assert holder_of(tmp_path) == owner
    child.kill()
    child.wait()
    assert holder_of(tmp_path) is None
    assert isinstance(acquire(tmp_path, nothing, patience=1000), Lease)


def test_another_process_with_the_same_number_is_not_the_owner(tmp_path):
    write(tmp_path, replace(Owner.this_process(), started=1.0))
    assert holder_of(tmp_path) is None


def test_an_owner_on_another_machine_is_believed_while_the_heart_beats(tmp_path):
    foreign = replace(Owner.this_process(), host="elsewhere", pid=2**22)
    write(tmp_path, foreign)
    stop = threading.Event()

    def beat():
        for number in range(1000):
            if stop.wait(0.05):
                return
            write(tmp_path, replace(foreign, beat=number + 1))

    thread = threading.Thread(target=beat)
    thread.start()
    holder = acquire(tmp_path, nothing, patience=30)
    stop.set()
    thread.join()
    assert isinstance(holder, Owner)
    assert holder.token == foreign.token


def test_an_owner_on_another_machine_whose_heart_stands_still_is_replaced(tmp_path):
    write(tmp_path, replace(Owner.this_process(), host="elsewhere", pid=2**22))
    looked = []
    lease = acquire(tmp_path, lambda: looked.append(1), patience=1.5)
    assert isinstance(lease, Lease)
    assert looked


def test_who_has_lost_his_lease_knows_and_does_not_take_it_back(tmp_path):
    lease = acquire(tmp_path, nothing)
    assert lease.renew()
    assert lease.is_ours
    other = replace(Owner.this_process(), token="another")
    write(tmp_path, other)
    assert not lease.is_ours
    assert not lease.renew()
    lease.release()
    assert holder_of(tmp_path) == other


def test_a_damaged_lease_is_nobodys(tmp_path):
    (tmp_path / "lease.json").write_text('{"token": "a"')
    assert holder_of(tmp_path) is None
    assert isinstance(acquire(tmp_path, nothing), Lease)


CONTENDER = """
import sys, time
from pathlib import Path
from tissuebench.sweep.state.leases import Lease, acquire
print("here", flush=True)
sys.stdin.readline()
print(isinstance(acquire(Path(sys.argv[1]), lambda: None), Lease), flush=True)
sys.stdin.readline()  # a holder that is gone would make room
"""


@pytest.mark.parametrize("left_behind", [False, True])
def test_of_many_at_once_one_gets_it(tmp_path, left_behind):
    if left_behind:
        write(tmp_path, replace(Owner.this_process(), started=1.0))
    command = [sys.executable, "-P", "-c", CONTENDER, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    for process in processes:
        assert process.stdout.readline() == "here\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    got = [process.stdout.readline() for process in processes]
    for process in processes:
        process.communicate("\n")
    assert sorted(got) == ["False\n"] * 5 + ["True\n"]
