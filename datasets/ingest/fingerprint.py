"""Fingerprints that show whether a source file has changed since ingest, without reading gigabytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tissuebench.common.hashing import Json, content_hash

_END_BYTES = 1 << 20


def fingerprint(path: Path | None) -> Json:
    """Return size and hash of the first and last MiB of a file; for a folder, a hash of its files' names and sizes.

    Small files are hashed completely. A MIRAX slide keeps its pixels in a folder of the same name, which is included.

    Returns:
        None if ``path`` is None or does not exist.
    """
    if path is None or not path.exists():
        return None
    if path.is_dir():
        inside = sorted(entry for entry in path.rglob("*") if entry.is_file())
        return content_hash([[entry.relative_to(path).as_posix(), entry.stat().st_size] for entry in inside])
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_END_BYTES))
        file.seek(max(_END_BYTES, size - _END_BYTES))
        digest.update(file.read())
    beside = path.with_suffix("")
    companion = fingerprint(beside) if path.suffix.lower() == ".mrxs" and beside.is_dir() else None
    return [size, digest.hexdigest(), companion]
