"""One recipe a dataset: each module here has a function ``recipe(data_root)``, and adding one is adding a file.

Modules whose name begins with ``_`` are what several recipes share.
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
    """Names that ``find_recipe`` knows."""
    return sorted(name for _, name, _ in pkgutil.iter_modules(__path__) if name != "recipe" and name[0] != "_")


def find_recipe(name: str, data_root: Path | None = None) -> Recipe:
    """The recipe of that name; ``name@56`` is the recipe ``name`` with tiles of 56 px, a dataset of its own.

    Raises:
        ConfigError: no such recipe (the nearest name is suggested), or no such tile size.
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
