"""``make chaos``: kill a sweep again and again, and hold what comes out against a sweep that was left alone.

At random moments the runner, a worker or both are ended by SIGKILL; a runner that is gone is started again by the same
command. In the end every confusion count must be the same, bit for bit, the table must be the same text, and the journal of
every task must tell of exactly one run to the end. The plan has a method with a label-free stage and one that annotates.

    python -P tests/chaos.py [--seed 0] [--kills 20] [--home FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.state.journal import read_journal

PLUGIN = Path(__file__).resolve().parent / "plugin"
OPTIONS = (
    *("--method", "complementary,staged", "--seed", "0,1", "--budget", "masks:3p"),
    *("--set", "training.steps=60", "--set", "compute.checkpoint_minutes=0.03", "--set", "compute.retries=1000"),
    *("--set", "methods.staged.pretrain_steps=40", "--set", "methods.staged.cam_steps=40", "--json"),
)
LONGEST_PAUSE_SECONDS = 14.0


def command(home: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "tissuebench", "run", "--home", str(home), *OPTIONS]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PLUGIN), "WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}


def start(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(home), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def workers(runner: subprocess.Popen[str]) -> list[psutil.Process]:
    with suppress(psutil.Error):
        children = psutil.Process(runner.pid).children()
        return [child for child in children if "tissuebench.sweep.worker" in child.cmdline()]
    return []


def torment(home: Path, rng: random.Random, kills: int) -> tuple[str, dict[str, int]]:
    """Run the sweep in ``home`` under ``kills`` kills; hands back the table, and how often what was killed."""
    counted = {"runner": 0, "worker": 0, "both": 0}
    runner = start(home)
    while sum(counted.values()) < kills:
        with suppress(subprocess.TimeoutExpired):
            runner.wait(rng.uniform(0.5, LONGEST_PAUSE_SECONDS))
        if runner.poll() is not None:
            if runner.returncode == 0:
                print(f"the sweep was over after {sum(counted.values())} kills; it begins again", flush=True)
                forget_results(home)
            runner = start(home)
            continue
        target = rng.choice(list(counted))
        alive = workers(runner)
        if target != "runner" and not alive:
            continue  # it is still starting
        if target in ("worker", "both"):
            with suppress(psutil.NoSuchProcess):
                rng.choice(alive).kill()
        if target in ("runner", "both"):
            runner.kill()
            runner.wait()
            runner = start(home)
        counted[target] += 1
        print(f"kill {sum(counted.values())}/{kills}: {target}", flush=True)
    table, _ = runner.communicate()
    if runner.returncode != 0:
        raise SystemExit(f"the tormented sweep ended with exit code {runner.returncode}")
    return table, counted


def forget_results(home: Path) -> None:
    """Everything that was made so far is deleted, journals too: a sweep that was over too early counts as another."""
    shutil.rmtree(home / "runs")


def compare(calm: Path, tormented: Path) -> list[str]:
    """What is different between the two homes; nothing if all is well."""
    wrong = []
    results = [{r.trial_id: r for r in ResultStore(results_folder(home)).load()} for home in (calm, tormented)]
    if results[0].keys() != results[1].keys() or not results[0]:
        return [f"{len(results[0])} and {len(results[1])} trials"]
    wrong += [
        f"counts of trial {key}"
        for key, r in results[0].items()
        if not np.array_equal(r.counts, results[1][key].counts)
    ]
    for home in (calm, tormented):
        folders = [folder for room in ("trials", "stages", "features") for folder in (home / "runs" / room).glob("*")]
        for folder in folders:
            ends = sum(event["event"] == "done" for event in read_journal(folder))
            if ends > 1:  # killed between the artefact and the line in the journal, a task has none
                wrong.append(f"{folder.name} was run to its end {ends} times")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--home", type=Path, default=None, help="keep both sweeps here")
    arguments = parser.parse_args()
    home = arguments.home or Path(tempfile.mkdtemp(prefix="tissuebench-chaos-"))
    calm, tormented = home / "calm", home / "tormented"
    started = time.monotonic()
    undisturbed = start(calm)
    table, _ = undisturbed.communicate()
    if undisturbed.returncode != 0:
        raise SystemExit(f"the undisturbed sweep ended with exit code {undisturbed.returncode}")
    print(f"undisturbed: {time.monotonic() - started:.0f} s", flush=True)
    tormented.mkdir(parents=True, exist_ok=True)
    shutil.copytree(calm / "data", tormented / "data", dirs_exist_ok=True)
    started = time.monotonic()
    other_table, counted = torment(tormented, random.Random(arguments.seed), arguments.kills)
    wrong = compare(calm, tormented)
    if table != other_table or not json.loads(table):
        wrong.append("the tables")
    killed = ", ".join(f"{what} {count}" for what, count in counted.items())
    print(f"tormented: {time.monotonic() - started:.0f} s, seed {arguments.seed}, kills: {killed}")
    if wrong:
        raise SystemExit("DIFFERENT: " + "; ".join(wrong))
    print("the same counts, the same table, every task run to its end once")
    if arguments.home is None:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
