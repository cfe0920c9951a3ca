"""Folders of a user's own slides: tissue on glass, polygons of known place, a manifest and a description."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import tifffile
import yaml

from tissuebench.datasets.ingest.dataset import find_dataset
from tissuebench.datasets.ingest.ingest import IngestOptions, ensure_store

CLASSES = {"stroma": [240, 150, 180], "tumour": [120, 40, 140]}


def tissue_on_glass(seed=0, side=512, top=64, left=64, edge=192):
    """Glass with one square of tissue, (side, side, 3) uint8."""
    rng = np.random.default_rng(seed)
    picture = np.full((side, side, 3), 243, np.uint8)
    noise = rng.integers(0, 40, (edge, edge, 3))
    picture[top : top + edge, left : left + edge] = (np.array([200, 110, 160]) - noise).astype(np.uint8)
    return picture


def write_tiff(path: Path, picture, mpp=1.0):
    resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, picture, tile=(64, 64), photometric="rgb", compression="deflate", **resolution)


def square(name, x0, y0, x1, y1):
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": name}},
    }


def write_geojson(path: Path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))


def write_manifest(root: Path, *rows):
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def describe(root: Path, **keys):
    described = {"name": "mine", "mpp": 1.0, "tile_px": 64, "classes": CLASSES, **keys}
    (root / "dataset.yaml").write_text(yaml.safe_dump(described))


def ingest(root: Path, home: Path, **options):
    return ensure_store(
        find_dataset("folder", root, home), home, root, lambda *_: None, IngestOptions(workers=1, **options)
    )
