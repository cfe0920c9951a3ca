"""Where the reference reads docstrings: the four folders as the one package that they are installed as."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.plugins import event_priority

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

_FOLDERS = ("methods", "datasets", "results")


@event_priority(100)  # before the plugin that reads them
def on_config(config: MkDocsConfig, **_: object) -> None:
    """Link the folders into a package beside the site, as ``make`` does for other tools that read source."""
    root, site = Path(config.config_file_path).resolve().parent, Path(config.site_dir)
    links = site.with_name(f"{site.name}-sources")
    package = links / "tissuebench"
    shutil.rmtree(links, ignore_errors=True)
    package.mkdir(parents=True)
    for source in (*(root / "benchmark").iterdir(), *(root / folder for folder in _FOLDERS)):
        if source.name != "__pycache__":
            (package / source.name).symlink_to(source)
    config.plugins["mkdocstrings"].config.handlers.setdefault("python", {})["paths"] = [str(links)]
