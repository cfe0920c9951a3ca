"""Slides in: a recipe's images and annotations become one sealed TileStore and its split."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tissuebench.datasets.annotations import read_geojson, read_label_image
from tissuebench.datasets.catalog.recipe import Recipe
from tissuebench.datasets.manifest import ManifestRow
from tissuebench.datasets.readers import read_slide
from tissuebench.datasets.splits import Split, official_split, random_split
from tissuebench.datasets.store import StoreInfo, TileStore
from tissuebench.datasets.store_writer import StoreWriter
from tissuebench.datasets.tissue import tissue_mask
from tissuebench.errors import DataError
from tissuebench.hashing import content_hash

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, how many there are."""

SPLIT_SEED = 0
_GEOJSON_SUFFIXES = (".geojson", ".json")


def dataset_folder(home: Path, dataset: str) -> Path:
    """Where a dataset's store, split and budgets stand."""
    return home / "data" / dataset


def ensure_store(recipe: Recipe, home: Path, data_root: Path | None, progress: Progress) -> tuple[TileStore, Split]:
    """Open the dataset's store and split, making them first if they are not there.

    Args:
        recipe: the dataset.
        home: folder that holds ``data/``.
        data_root: the source files; may be None if the recipe generates its own or the store is there already.
        progress: told of every slide.

    Raises:
        DataError: source missing or unusable, or the store was made from another source.
    """
    folder = dataset_folder(home, recipe.name)
    store_path, split_path, raw = folder / "store.zarr", folder / "split.json", folder / "raw"
    if data_root is not None and not data_root.is_dir():
        raise DataError(f"data root {data_root}: no such folder")
    if data_root is None and recipe.generate is not None:
        if not raw.is_dir() and not (store_path.exists() and split_path.exists()):
            _generate(recipe, raw, progress)
        data_root = raw if raw.is_dir() else None
    if data_root is not None:
        rows = recipe.rows(data_root)
        split = _split_of(recipe, rows)
        source = _source_hash(recipe, rows)
        if not store_path.exists():
            _ingest(recipe, rows, source, store_path, progress)
        elif TileStore(store_path).info.source_sha256 != source:
            raise DataError(f"{store_path}: was made from other files; delete {folder} to ingest these")
        if not split_path.exists():
            split.write(split_path)
    elif not store_path.exists():
        raise DataError(
            f"dataset {recipe.name!r} is not ingested yet: say where its files are (DATA_ROOT=… or --data-root …); "
            f"{recipe.source}"
        )
    store, split = TileStore(store_path), Split.read(split_path)
    known = {slide.patient_id for slide in store.slides.values()}
    lost = sorted({patient for part in split.parts.values() for patient in part} - known)
    if lost:
        raise DataError(f"{split_path}: patient {lost[0]!r} is not in the store; delete {folder} to ingest again")
    return store, split


def _generate(recipe: Recipe, raw: Path, progress: Progress) -> None:
    if recipe.generate is None:
        raise DataError(f"dataset {recipe.name!r} cannot be generated")
    aside = raw.with_name(raw.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    recipe.generate(aside, lambda done, total: progress(f"drawing {recipe.name} slides", done, total))
    aside.rename(raw)


def _source_hash(recipe: Recipe, rows: list[ManifestRow]) -> str:
    """Hash of what a store is made of: the recipe, the manifest and the sizes of its files."""
    classes = recipe.class_map

    def size(path: Path) -> int:
        return path.stat().st_size if path.is_file() else -1

    return content_hash(
        {
            "recipe": [recipe.name, recipe.version, recipe.mpp, recipe.tile_px],
            "costs": asdict(recipe.costs),
            "classes": [list(classes.names), {name: list(allowed) for name, allowed in classes.diagnoses.items()}],
            "rows": [[r.slide_id, r.patient_id, list(r.diagnosis), r.split, r.mpp] for r in rows],
            "bytes": [[size(r.image), size(r.annotation)] for r in rows],
        }
    )


def _split_of(recipe: Recipe, rows: list[ManifestRow]) -> Split:
    assigned = [row for row in rows if row.split]
    if not assigned:
        return random_split(
            f"{recipe.name}-random", {row.patient_id: ";".join(row.diagnosis) for row in rows}, SPLIT_SEED
        )
    if len(assigned) < len(rows):
        missing = next(row for row in rows if not row.split)
        raise DataError(f"{recipe.name}: slide {missing.slide_id!r} has no split but others have; fill all or none")
    return official_split(f"{recipe.name}-official", ((row.patient_id, row.split) for row in rows))


def _ingest(recipe: Recipe, rows: list[ManifestRow], source: str, path: Path, progress: Progress) -> None:
    writer = StoreWriter(
        path, StoreInfo(recipe.name, recipe.mpp, recipe.tile_px, recipe.costs, source), recipe.class_map
    )
    try:
        for number, row in enumerate(sorted(rows, key=lambda row: row.slide_id)):
            progress(f"ingesting {recipe.name}", number, len(rows))
            slide = read_slide(row.image, recipe.mpp, row.mpp)
            size = (slide.pixels.shape[0], slide.pixels.shape[1])
            if row.annotation.suffix.lower() in _GEOJSON_SUFFIXES:
                labels = read_geojson(row.annotation, recipe.class_map, size, slide.scale)
            else:
                labels = read_label_image(row.annotation, recipe.class_map, slide.level0_size, size)
            writer.add(row.slide_id, row.patient_id, row.diagnosis, slide.pixels, labels, tissue_mask(slide.pixels))
        progress(f"ingesting {recipe.name}", len(rows), len(rows))
        writer.seal()
    except BaseException:
        writer.discard()
        raise
