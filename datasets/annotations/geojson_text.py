"""Text of a GeoJSON file, which may be compressed."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from tissuebench.common.text_files import decoded
from tissuebench.errors import DataError

_GZIP = b"\x1f\x8b"
_MAX_BYTES, _MAX_RATIO, _ALWAYS = 4 << 30, 200, 64 << 20
_CHUNK = 1 << 24
_REMEDY = "export it from QuPath again, or save it as UTF-8"


def geojson_text(path: Path) -> str:
    """Return the text of a file, unpacked if it begins like a gzip file, whatever its name.

    A file that unpacks to more than 4 GiB, or to more than 64 MiB and 200 times its size, is refused: outlines shrink
    to a tenth.

    Raises:
        DataError: unreadable, larger than that, or neither UTF-8 nor UTF-16 with a byte order mark.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP
        content = _unpacked(path) if packed else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as GeoJSON ({error}); export it from QuPath again") from None
    return decoded(path, content, _REMEDY)


def _unpacked(path: Path) -> bytearray:
    limit = min(_MAX_BYTES, max(_ALWAYS, path.stat().st_size * _MAX_RATIO))
    content = bytearray()
    with gzip.open(path) as file:
        while chunk := file.read(_CHUNK):
            content += chunk
            if len(content) > limit:
                raise DataError(f"{path}: unpacks to more than {limit >> 20} MiB; if that is right, unpack it yourself")
    return content
