"""Fingerprints that show whether a source file has changed since ingest, without reading gigabytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tissuebench.common.hashing import Json, content_hash
from tissuebench.datasets.readers.companions import companions

_END_BYTES = 1 << 20


def fingerprint(path: Path | None) -> Json:
    """Return size and hash of the first and last MiB of a file, and of the other files of its slide.

    Small files are hashed completely. Of a folder that is one image, as in OME-Zarr, only the names and sizes of the
    files are hashed: there may be millions.

    Returns:
        None if ``path`` is None or does not exist.
    """
    if path is None or not path.exists():
        return None
    others: list[Json] = [[other.name, *_of_file(other)] for other in companions(path)]
    if path.is_file():
        return [*_of_file(path), content_hash(others) if others else None]
    if others:
        return content_hash(others)
    inside = sorted(entry for entry in path.rglob("*") if entry.is_file())
    return content_hash([[entry.relative_to(path).as_posix(), entry.stat().st_size] for entry in inside])


def _of_file(path: Path) -> tuple[int, str]:
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_END_BYTES))
        file.seek(max(_END_BYTES, size - _END_BYTES))
        digest.update(file.read())
    return size, digest.hexdigest()
