"""Recipes of toy data sets with one archive, and helpers to fetch them."""

from __future__ import annotations

import hashlib
import io
import zipfile

import numpy as np
import pytest

from tissuebench.datasets.catalog.recipe import Download, Recipe
from tissuebench.datasets.download.fetch import fetch
from tissuebench.datasets.download.http import Retry
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

FAST = Retry(attempts=4, first_wait_seconds=0.001, timeout_seconds=10)


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


NOISE = np.random.default_rng(0).bytes(400_000)
GOOD = zip_of({"a/one.txt": b"one", "a/noise.bin": NOISE, "__MACOSX/a/._one.txt": b"x"})


def recipe_of(*downloads, by_hand=""):
    return Recipe(
        name="toy",
        version=1,
        title="a toy",
        licence="CC0",
        source="nowhere",
        class_map=ClassMap(("a", "b"), ((0, 0, 0), (1, 1, 1))),
        tile_px=32,
        mpp=None,
        rows=lambda _: [],
        downloads=downloads,
        by_hand=by_hand,
    )


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def download_of(url, body=GOOD, **how):
    return Download("data.zip", url, **{"sha256": sha256(body), **how})


def run(recipe, folder):
    said, seen = [], []
    result = fetch(recipe, folder, lambda *step: seen.append(step), said.append, FAST)
    assert result == folder
    return said, seen


def refused(recipe, folder):
    with pytest.raises(DataError) as raised:
        run(recipe, folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def require_whole(folder):
    assert (folder / "data" / "a" / "one.txt").read_bytes() == b"one"
    assert (folder / "data" / "a" / "noise.bin").read_bytes() == NOISE
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".sha256") == ["data", "data.zip"]
