"""A data set of large slides, written tile by tile, and the command that ingests it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile
import yaml

from tissuebench.datasets.store.tile_store import TileStore

_TILE = 512


def write_pyramid(path: Path, tissue, side: int, levels: int = 3) -> None:
    """A tiled JPEG pyramid with SubIFDs, written tile by tile; every tile is the patch shifted, so that none repeats."""

    def tiles(edge, step):
        for row in range(0, edge, _TILE):
            for column in range(0, edge, _TILE):
                y, x = (row * step * 7) % 1024, (column * step * 13) % 1024
                yield np.roll(tissue, (-y, -x), axis=(0, 1))[: _TILE * step : step, : _TILE * step : step]

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level in range(levels):
            step = 2**level
            edge = side // step
            writer.write(
                tiles(edge, min(step, 2)),
                shape=(edge, edge, 3),
                dtype=np.uint8,
                tile=(_TILE, _TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subifds=levels - 1 if level == 0 else None,
                subfiletype=0 if level == 0 else 1,
                resolution=(1e4 / 0.5 / step, 1e4 / 0.5 / step),
                resolutionunit="CENTIMETER",
            )


def write_source(root: Path, tissue, n_slides: int, side: int, diagnoses: dict[str, list[str]] | None = None) -> None:
    """Write slides that are annotated in part, the same part of each; with ``diagnoses``, in turn."""
    root.mkdir()
    described = {"name": "large", "mpp": 0.5, "tile_px": 256, "classes": {"stroma": [1, 2, 3], "tumour": [4, 5, 6]}}
    names = list(diagnoses or {"": []})
    if diagnoses:
        described["diagnoses"] = diagnoses
    (root / "dataset.yaml").write_text(yaml.safe_dump(described))
    with (root / "manifest.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("slide_id", "patient_id", "image", "annotation", "diagnosis"))
        for number in range(n_slides):
            write_pyramid(root / f"s{number}.tif", np.roll(tissue, 37 * number, axis=0), side)
            ring = [[0, 0], [side * 0.6, 0], [side * 0.8, side], [0, side * 0.7], [0, 0]]
            (root / f"s{number}.geojson").write_text(
                '{"type":"Feature","geometry":{"type":"Polygon","coordinates":[' + str(ring) + "]},"
                '"properties":{"classification":{"name":"tumour"}}}'
            )
            row = (f"s{number}", f"p{number}", f"s{number}.tif", f"s{number}.geojson", names[number % len(names)])
            writer.writerow(row)


def start(root: Path, home: Path, workers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "tissuebench", "data", "ingest", "folder", "--data-root", str(root)]
    command += ["--home", str(home), "--workers", str(workers)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def whole(root: Path, home: Path, workers: int) -> TileStore:
    """Ingest without disturbance."""
    process = start(root, home, workers)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors.decode()
    return TileStore(home / "data" / "large" / "store.zarr")
