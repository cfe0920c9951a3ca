"""One recipe a dataset: each module here has a function ``recipe(data_root)``, and adding one is adding a file.

Modules whose name begins with ``_`` are what several recipes share.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import cast

from tissuebench.datasets.catalog.recipe import Recipe
from tissuebench.errors import ConfigError, unknown_name


def recipe_names() -> list[str]:
    """Names that ``find_recipe`` knows."""
    return sorted(name for _, name, _ in pkgutil.iter_modules(__path__) if name != "recipe" and name[0] != "_")


def find_recipe(name: str, data_root: Path | None = None) -> Recipe:
    """The recipe of that name.

    Raises:
        ConfigError: no such recipe; the nearest name is suggested.
    """
    if name not in recipe_names():
        raise ConfigError(unknown_name("dataset", name, recipe_names()))
    module = importlib.import_module(f"{__name__}.{name}")
    return cast("Recipe", module.recipe(data_root))
