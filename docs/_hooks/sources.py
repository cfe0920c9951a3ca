"""Point mkdocstrings at ``src/``, where the four folders are one package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.plugins import event_priority

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig


@event_priority(100)  # before the plugin that reads them
def on_config(config: MkDocsConfig, **_: object) -> None:
    """Set the path of the Python handler."""
    source = Path(config.config_file_path).resolve().parent / "src"
    config.plugins["mkdocstrings"].config.handlers.setdefault("python", {})["paths"] = [str(source)]
