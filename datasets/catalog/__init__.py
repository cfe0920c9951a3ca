"""Catalog of datasets: one module per recipe, with a function ``recipe(data_root)``; add a file to add a dataset.

Modules whose names start with ``_`` are shared by several recipes.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import replace
from pathlib import Path
from typing import cast

from tissuebench.datasets.catalog.recipe import Recipe
from tissuebench.errors import ConfigError, unknown_name

MIN_TILE_PX = 32
_TILE_PX = re.compile("[1-9][0-9]{0,4}")


def recipe_names() -> list[str]:
    """Return the names that ``find_recipe`` accepts, sorted.

    Examples:
        >>> from tissuebench.datasets.catalog import recipe_names
        >>> "synthetic" in recipe_names()
        True
    """
    return sorted(name for _, name, _ in pkgutil.iter_modules(__path__) if name != "recipe" and name[0] != "_")


def find_recipe(name: str, data_root: Path | None = None) -> Recipe:
    """Return the recipe with the given name; ``name@56`` is the same with tiles of 56 px, a separate dataset.

    Raises:
        ConfigError: no such recipe (the closest name is suggested), or invalid tile size.

    Examples:
        >>> from tissuebench.datasets.catalog import find_recipe
        >>> recipe = find_recipe("synthetic@64")
        >>> recipe.name, recipe.tile_px
        ('synthetic@64', 64)
    """
    plain, at, tile_px = name.partition("@")
    if plain not in recipe_names():
        raise ConfigError(unknown_name("dataset", plain, recipe_names()))
    if at and not (_TILE_PX.fullmatch(tile_px) and int(tile_px) >= MIN_TILE_PX):
        raise ConfigError(
            f"dataset {name!r}: '@' is followed by the edge of a tile in pixels, at least {MIN_TILE_PX}, "
            f"as in '{plain}@64'"
        )
    module = importlib.import_module(f"{__name__}.{plain}")
    recipe = cast("Recipe", module.recipe(data_root))
    return replace(recipe, name=f"{recipe.name}@{tile_px}", tile_px=int(tile_px)) if at else recipe
