"""Manifest CSV with one row per slide, the common input of every ingest."""

from tissuebench.datasets.manifest.accessories import is_accessory, is_mask_name
from tissuebench.datasets.manifest.files import file_named
from tissuebench.datasets.manifest.reading import manifest_notes, read_manifest
from tissuebench.datasets.manifest.rows import OPTIONAL, PARTS, REQUIRED, BadRow, ManifestRow, says_nothing
from tissuebench.datasets.manifest.table import Table, read_table

__all__ = [
    "OPTIONAL",
    "PARTS",
    "REQUIRED",
    "BadRow",
    "ManifestRow",
    "Table",
    "file_named",
    "is_accessory",
    "is_mask_name",
    "manifest_notes",
    "read_manifest",
    "read_table",
    "says_nothing",
]
