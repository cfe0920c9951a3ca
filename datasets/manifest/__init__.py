"""Manifest CSV with one row per slide, the common input of every ingest."""

from tissuebench.datasets.manifest.reading import manifest_notes, read_manifest
from tissuebench.datasets.manifest.rows import PARTS, BadRow, ManifestRow

__all__ = ["PARTS", "BadRow", "ManifestRow", "manifest_notes", "read_manifest"]
