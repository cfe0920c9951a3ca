"""Datasets for notebooks: slides as a table, tiles and slides as pictures. For display only, never for training."""

from __future__ import annotations

import html
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tissuebench.bench import open_data
from tissuebench.common.home import existing_or_new_home
from tissuebench.common.progress import ProgressDisplay, stderr_console
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.types import Tile
from tissuebench.errors import DataError
from tissuebench.inspection.facts import inspect_store
from tissuebench.inspection.tiles import TILES_PER_CLASS, pixels_and_labels, sample_tiles
from tissuebench.notebook.pictures import Gallery, Labelled, Picture, legend


def open_dataset(name: str, *, data_root: Path | str | None = None, home: Path | str | None = None) -> Dataset:
    """Open an ingested dataset; one that is not is ingested first, as by ``tissuebench data ingest``.

    Args:
        name: as on the command line: ``synthetic``, ``folder``, the name in ``dataset.yaml``, ``ebhi@56``.
        data_root: folder with its source files; not needed again once it was ingested.
        home: folder that holds ``data/`` and ``runs/``; by default ``$TISSUEBENCH_HOME``, else the current folder.

    Raises:
        ConfigError: no such dataset or home folder.
        DataError: the source files are missing or unusable.

    Examples:
        >>> dataset = open_dataset("synthetic")
        >>> dataset.slides.groupby("part").size()
        >>> dataset.tiles()
    """
    root = None if data_root is None else Path(data_root)
    with ProgressDisplay(stderr_console()) as display:
        opened = open_data(name, root, existing_or_new_home(home), display)
    return Dataset(opened.store, opened.split)


@dataclass(frozen=True)
class Dataset:
    """An ingested dataset.

    Attributes:
        store: its slides and annotations.
        split: its patients, by part.
    """

    store: TileStore
    split: Split

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the label values."""
        return self.store.class_map.names

    @cached_property
    def slides(self) -> pd.DataFrame:
        """One row per slide.

        | column | dtype | |
        |---|---|---|
        | `slide_id`, `patient_id` | str | |
        | `part` | str | part of the split |
        | `diagnosis` | str | joined with `;` if mixed, empty if unknown |
        | `height`, `width` | int64 | pixels at the resolution of the store |
        | `n_tiles` | int64 | |
        | `tissue`, `annotated` | float64 | share of the slide's area |
        | `level0_mpp` | float64 | resolution of the file, µm per pixel; missing if unknown |
        | `pixels/CLASS` | int64 | annotated pixels of each class |
        """
        facts = inspect_store(self.store, self.split, (), "", "").slides
        names = ("slide_id", "patient_id", "part", "height", "width", "n_tiles", "tissue", "annotated", "level0_mpp")
        frame = pd.DataFrame({name: [getattr(one, name) for one in facts] for name in names})
        frame.insert(3, "diagnosis", [";".join(one.diagnosis) for one in facts])
        pixels = np.array([one.class_pixels for one in facts], dtype=np.int64)
        counts = pd.DataFrame(pixels, columns=[f"pixels/{name}" for name in self.classes])
        return frame.astype({"level0_mpp": "float64"}).join(counts)

    def tile(self, slide_id: str, y: int, x: int, size: int | None = None) -> Labelled:
        """Return a square region with its annotation.

        Args:
            slide_id: the slide.
            y: upper row in pixels of the store.
            x: left column.
            size: edge in pixels; by default that of the store's tiles.

        Raises:
            DataError: no such slide.

        Examples:
            >>> tile = open_dataset("synthetic").tile("S01", 256, 256)
            >>> tile.image.shape, tile.labels.shape
            ((128, 128, 3), (128, 128))
        """
        tile, edge = Tile(slide_id, y, x), size or self.store.info.tile_px
        image, labels = pixels_and_labels(self.store, tile, edge)
        return Labelled(f"{slide_id}, y {y}, x {x}", image, labels, self.store.class_map)

    def tiles(self, per_class: int = TILES_PER_CLASS) -> Gallery:
        """Return sample tiles of each class under their annotation, those of ``tissuebench data inspect``.

        Args:
            per_class: number of tiles of a class; at most ``TILES_PER_CLASS``.
        """
        return Gallery(
            {
                name or "not annotated": [self.tile(one.slide_id, one.y, one.x).overlay for one in tiles[:per_class]]
                for name, tiles in sample_tiles(self.store).items()
            }
        )

    def slide(self, slide_id: str) -> Picture:
        """Return a small picture of a slide: with its tissue outlined, and with its annotation.

        Raises:
            DataError: there is none.
        """
        path = self.store.path / "thumbnails" / f"{slide_id}.jpg"
        if slide_id not in self.store.slides or not path.is_file():
            raise DataError(f"{self.store.path}: no picture of slide {slide_id!r}")
        with Image.open(path) as picture:
            return Picture(slide_id, np.asarray(picture))

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p><p>{legend(self.store.class_map)}</p>"

    def __repr__(self) -> str:
        info, slides = self.store.info, self.store.slides
        patients = len({slide.patient_id for slide in slides.values()})
        mpp = "at an unknown resolution" if info.mpp is None else f"at {info.mpp:g} µm per pixel"
        return (
            f"{info.dataset}: {len(slides)} slides of {patients} patients, {len(self.classes)} classes, "
            f"tiles of {info.tile_px} px {mpp}"
        )
