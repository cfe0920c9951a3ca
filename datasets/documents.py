"""Small JSON documents with a hash: written atomically, verified when read."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from tissuebench.common.files import write_aside
from tissuebench.common.hashing import Json, content_hash
from tissuebench.errors import DataError

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_WRITTEN_OUT = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss", "æ": "ae", "ø": "oe", "å": "aa"}
)


def require_safe_id(kind: str, identifier: str, where: str) -> str:
    """Return ``identifier`` if it can be used as a file name unchanged.

    Raises:
        DataError: it is empty, or contains a path separator or another character outside letters, digits, ``._-``.
    """
    if not _SAFE_ID.fullmatch(identifier):
        safe = safe_id(identifier)
        hint = f", for instance {safe!r}" if safe else ""
        raise DataError(
            f"{where}: {kind} {identifier!r} cannot be a file name; use unaccented letters, digits, '.', '_' and '-', "
            f"beginning with a letter or digit{hint}"
        )
    return identifier


def safe_id(name: str) -> str:
    """Return an id for a name: umlauts written out, accents dropped, ``_`` for all else; "" if nothing is left.

    Examples:
        >>> safe_id("Pr\u00e4parat 7/2")
        'Praeparat_7_2'
    """
    plain = unicodedata.normalize("NFC", name).translate(_WRITTEN_OUT)
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "_", ascii_only).lstrip("._-").rstrip("_")[:128]


def write_hashed_json(path: Path, value: Mapping[str, Json]) -> str:
    """Write ``{"sha256": ..., "content": value}`` atomically to ``path`` and return the hash."""
    digest = content_hash(value)
    write_aside(path, (json.dumps({"sha256": digest, "content": value}, indent=1, sort_keys=True) + "\n").encode())
    return digest


def read_hashed_json(path: Path) -> tuple[dict[str, Json], str]:
    """Read a file of ``write_hashed_json`` and return the content and its hash.

    Raises:
        DataError: no such file, not JSON, or the content does not match the stored hash.
    """
    try:
        document = json.loads(path.read_text())
        content, digest = document["content"], document["sha256"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path}: not a file of this suite ({error}); delete it and run the command again") from None
    if content_hash(content) != digest:
        raise DataError(f"{path}: was edited by hand (its sha256 no longer holds); delete it and run the command again")
    return cast("dict[str, Json]", content), cast("str", digest)
