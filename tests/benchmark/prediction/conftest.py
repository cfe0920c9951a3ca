"""A tiny trial that is really trained, on slides whose resolution is known."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml

from tests.benchmark.sweeps import TINY_PLAN, run_inline
from tissuebench.datasets.catalog import find_recipe
from tissuebench.datasets.ingest.ingest import ensure_store
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.plans.expand import PlannedData, expand
from tissuebench.plans.schema import load_plan
from tissuebench.sweep.graph import build_graph

MPP = 2.0
PLAN = {**TINY_PLAN, "budgets": ["masks:2p"], "seeds": [0]}


@dataclass(frozen=True)
class Trained:
    """A home with one finished trial and one that was not started."""

    home: Path
    trial: str
    waiting: str
    store: TileStore


@pytest.fixture(scope="session")
def trained(tiny_source, tmp_path_factory) -> Trained:
    root, home = tmp_path_factory.mktemp("known") / "source", tmp_path_factory.mktemp("trained-home")
    shutil.copytree(tiny_source, root)
    described = yaml.safe_load((root / "dataset.yaml").read_text())
    (root / "dataset.yaml").write_text(yaml.safe_dump({**described, "mpp": MPP}, sort_keys=False))
    rows = list(csv.DictReader((root / "manifest.csv").open(newline="")))
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "mpp"])
        writer.writeheader()
        writer.writerows({**row, "mpp": MPP} for row in rows)
    made = ensure_store(find_recipe("folder", root), home, root, lambda *_: None)
    plan_path = home / "plan.yaml"
    plan_path.write_text(yaml.safe_dump(PLAN))
    data = PlannedData(made.store, made.split)
    trials = expand(load_plan(str(plan_path)), ("supervised",), data, home)
    done, waiting = (next(one for one in trials if one.method == name) for name in ("supervised", "full"))
    assert not run_inline(build_graph([done], data, home), home).failed
    (home / "runs" / "trials" / waiting.id).mkdir()
    return Trained(home, done.id, waiting.id, made.store)


@pytest.fixture
def small_slide(tmp_path):
    """A slide of 230 x 170 px at 1 µm, as blocks of the colours of the classes."""
    rng = np.random.default_rng(5)
    colours = np.array([(240, 240, 240), (230, 150, 190), (110, 60, 160)], np.uint8)
    pixels = colours[rng.integers(0, 3, (17, 23))].repeat(10, axis=0).repeat(10, axis=1)
    path = tmp_path / "small.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    return path
