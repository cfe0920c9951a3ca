"""Fixtures for every folder: where the shared data stands, and a small data set of one's own slides."""

from __future__ import annotations

import csv
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from hypothesis import settings
from PIL import Image

from tests import properties
from tissuebench.datasets.catalog import find_recipe
from tissuebench.datasets.ingest.ingest import ensure_store
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.runtime.memory import return_freed_memory

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests interrupt processes, which would inherit it

settings.load_profile(properties.QUICK)  # `make test-all` says --hypothesis-profile=thorough

TINY_CLASSES = {
    "glass": (240, 240, 240),
    "stroma": (230, 150, 190),
    "tumour_a": (110, 60, 160),
    "tumour_b": (200, 60, 70),
}
TINY_PARTS = ("train",) * 7 + ("val",) * 2 + ("test",) * 3
_LARGE_BYTES = 3 << 29
_HEIGHT, _WIDTH, _BLOCK, _NOISE = 64, 96, 16, 12


@pytest.fixture(autouse=True)
def freed_memory_goes_back():
    """Return what a large test freed: a worker that trains one network after another grew to 6 GB."""
    yield
    if psutil.Process().memory_info().rss > _LARGE_BYTES:
        return_freed_memory()


@pytest.fixture(autouse=True)
def signals_stay_as_they_were():
    """Restore the handlers that a test's command or training left; a forked child with such a one ignores SIGTERM."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        if handler is not None:  # one that was not set from Python
            signal.signal(number, handler)


@dataclass(frozen=True)
class TinyData:
    """The tiny data set, ingested: a home folder with its store and split, and the folder it came from."""

    home: Path
    store: TileStore
    split: Split
    root: Path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real slides and images that stands beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("TISSUEBENCH_SHARED", beside.parent)) / "data"
    if not path.is_dir():
        pytest.skip(f"no shared data at {path}; set TISSUEBENCH_SHARED")
    return path


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patients with one 96 x 64 px image each, in a folder as a user would write it.

    Classes are blocks of 16 px whose colours differ by far more than the pixel noise. A case of diagnosis A shows
    glass, stroma and tumour_a, one of B shows tumour_b instead. A and B alternate, so both are in train, val and test.
    """
    root = tmp_path_factory.mktemp("tiny-source")
    rng = np.random.default_rng(7)
    colours = np.array(list(TINY_CLASSES.values()), dtype=np.int16)
    rows = []
    for number, part in enumerate(TINY_PARTS):
        diagnosis, tumour = ("A", 2) if number % 2 == 0 else ("B", 3)
        blocks = rng.choice([0, 1, tumour], size=(_HEIGHT // _BLOCK, _WIDTH // _BLOCK))
        blocks[0, :3] = 0, 1, tumour
        labels = blocks.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1).astype(np.uint8)
        noise = rng.integers(-_NOISE, _NOISE + 1, size=(_HEIGHT, _WIDTH, 3))
        Image.fromarray((colours[labels] + noise).astype(np.uint8)).save(root / f"slide{number:02}.png")
        mask = Image.fromarray(labels, mode="P")
        mask.putpalette(bytes(colours.astype(np.uint8).ravel()))
        mask.save(root / f"slide{number:02}_mask.png")
        rows.append(
            {
                "slide_id": f"slide{number:02}",
                "patient_id": f"case{number:02}",
                "image": f"slide{number:02}.png",
                "annotation": f"slide{number:02}_mask.png",
                "diagnosis": diagnosis,
                "split": part,
            }
        )
    with (root / "manifest.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    described = {
        "name": "tiny",
        "licence": "drawn by the tests",
        "mpp": None,
        "tile_px": 32,
        "classes": {name: list(colour) for name, colour in TINY_CLASSES.items()},
        "diagnoses": {"A": ["tumour_a"], "B": ["tumour_b"]},
    }
    (root / "dataset.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    return root


@pytest.fixture(scope="session")
def tiny_data(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """The tiny data set in a store. Read only: a test that changes something copies first."""
    home = tmp_path_factory.mktemp("tiny-home")
    made = ensure_store(find_recipe("folder", tiny_source), home, tiny_source, lambda *_: None)
    return TinyData(home, made.store, made.split, tiny_source)
