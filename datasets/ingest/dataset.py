"""Datasets by name: those of the catalog, and a user's own by the name in its ``dataset.yaml``."""

from __future__ import annotations

from pathlib import Path

from tissuebench.datasets.catalog import find_recipe, recipe_names
from tissuebench.datasets.catalog.recipe import Recipe
from tissuebench.datasets.ingest.outcome import remembered_origin
from tissuebench.datasets.manifest import ManifestRow
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.errors import ConfigError, DataError, unknown_name

FOLDER = "folder"
_DESCRIPTION = "dataset.yaml"


def dataset_folder(home: Path, dataset: str) -> Path:
    """Return the folder of a dataset's store, split and budgets."""
    return home / "data" / dataset


def own_datasets(home: Path) -> list[str]:
    """Return the names of the user's own datasets that were ingested in this home, sorted."""
    folders = (home / "data").iterdir() if (home / "data").is_dir() else ()
    names = {folder.name for folder in folders if folder.is_dir() and remembered_origin(folder) is not None}
    return sorted(name for name in names if name not in recipe_names() and "@" not in name)


def find_dataset(name: str, data_root: Path | None, home: Path) -> Recipe:
    """Return the recipe of a dataset, by its name in the catalog or, for a user's own, in its ``dataset.yaml``.

    Args:
        name: ``synthetic``, ``folder``, ``liver``; with ``@56`` in tiles of 56 px.
        data_root: the folder with the dataset's files; a user's own dataset that was ingested before needs none.
        home: folder with ``data/``.

    Raises:
        ConfigError: no such dataset (the closest name is suggested), or a user's own has a name of the catalog.
        DataError: ``dataset.yaml`` is missing or invalid.

    Examples:
        >>> find_dataset("synthetic@64", None, Path("home")).tile_px
        64
    """
    plain, at, tile_px = name.partition("@")
    if plain in recipe_names() and plain != FOLDER:
        return find_recipe(name, data_root)
    if plain != FOLDER and data_root is None:
        data_root = remembered_origin(dataset_folder(home, plain))
        if data_root is not None and not (data_root / _DESCRIPTION).is_file():
            return _sealed(name, dataset_folder(home, name), data_root)
    if plain != FOLDER and (data_root is None or not (data_root / _DESCRIPTION).is_file()):
        raise ConfigError(unknown_name("dataset", plain, {*recipe_names(), *own_datasets(home)}))
    recipe = find_recipe(f"{FOLDER}{at}{tile_px}", data_root)
    if recipe.plain_name in recipe_names():
        raise ConfigError(
            f"{data_root}/{_DESCRIPTION}: key 'name': {recipe.plain_name!r} is a dataset of the suite; choose another"
        )
    if plain not in (FOLDER, recipe.plain_name):
        known = {*recipe_names(), *own_datasets(home), recipe.plain_name}
        raise ConfigError(f"{unknown_name('dataset', plain, known)}; {data_root} holds {recipe.plain_name!r}")
    return recipe


def _sealed(name: str, folder: Path, data_root: Path) -> Recipe:
    """Return a recipe that only knows what the sealed store of a dataset says, as its files are no longer there."""
    gone = f"{data_root}: the files of dataset {name!r} are no longer there; give their folder with --data-root"
    if not (folder / "store.zarr").is_dir():
        raise DataError(gone)
    store = TileStore(folder / "store.zarr")

    def rows(root: Path) -> list[ManifestRow]:
        raise DataError(gone)

    return Recipe(
        name=name,
        version=1,
        title=f"slides of {data_root.name}",
        licence="not stated",
        source=gone,
        class_map=store.class_map,
        tile_px=store.info.tile_px,
        mpp=store.info.mpp,
        rows=rows,
        costs=store.info.costs,
        min_tag_share=store.info.min_tag_share,
        white=store.info.white,
    )
