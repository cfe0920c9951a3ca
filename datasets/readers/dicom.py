"""DICOM slides: one file per level, label and overview beside; the headers say which files are one slide."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tissuebench.errors import DataError

_MAGIC_AT, _MAGIC = 128, b"DICM"
_IMPLICIT = "1.2.840.10008.1.2"  # the only transfer syntax of slides without value representations
_TRANSFER_SYNTAX, _IMAGE_TYPE, _SERIES = 0x00020010, 0x00080008, 0x0020000E
_COLUMNS, _ROWS = 0x00480006, 0x00480007  # of the total pixel matrix
_WANTED = (_TRANSFER_SYNTAX, _IMAGE_TYPE, _SERIES, _COLUMNS, _ROWS)
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNDEFINED, _DELIMITERS, _SEQUENCE_END = 0xFFFFFFFF, 0xFFFE, 0xFFFEE0DD
_VOLUME = "VOLUME"


class DicomHeader(NamedTuple):
    """Series of a file, the kind of its image (VOLUME, LABEL, OVERVIEW, THUMBNAIL) and its size in pixels."""

    series: str
    kind: str
    height: int
    width: int


def dicom_files(folder: Path) -> dict[Path, DicomHeader]:
    """Return the DICOM files directly in a folder with their headers, in the order of their names."""
    headers = {path: dicom_header(path) for path in sorted(folder.iterdir()) if path.is_file()}
    return {path: header for path, header in headers.items() if header is not None}


def dicom_slide(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the file of the finest level of the slide that a file or a folder belongs to, and notes on the choice.

    Raises:
        DataError: a folder that holds no slide or several, or a label or overview without a slide.
    """
    if path.is_dir():
        volumes = {one: header for one, header in dicom_files(path).items() if header.kind == _VOLUME}
        finest = {header.series: _finest(volumes, header.series) for header in volumes.values()}
        if not finest:
            raise DataError(f"{path}: is a folder, without a DICOM slide in it; check the manifest's column 'image'")
        if len(finest) > 1:
            names = ", ".join(one.name for one in finest.values())
            raise DataError(f"{path}: holds {len(finest)} DICOM slides; name one file of the slide instead ({names})")
        return next(iter(finest.values())), ()
    header = dicom_header(path)
    if header is None or header.kind in (_VOLUME, ""):
        return path, ()
    volumes = {one: other for one, other in dicom_files(path.parent).items() if other.kind == _VOLUME}
    if not any(other.series == header.series for other in volumes.values()):
        raise DataError(
            f"{path}: is the {header.kind.lower()} of a DICOM slide whose levels are not beside it; "
            "name a level of the slide"
        )
    found = _finest(volumes, header.series)
    return found, (f"{path.name} is the {header.kind.lower()} of the slide; its level {found.name} was read",)


def dicom_header(path: Path) -> DicomHeader | None:
    """Return what a file's header says; None if it is no DICOM file or cannot be understood."""
    try:
        state = path.stat()
        return _cached_header(path, state.st_size, state.st_mtime_ns)
    except (OSError, EOFError, ValueError, RecursionError, struct.error):
        return None


def _finest(volumes: dict[Path, DicomHeader], series: str) -> Path:
    own = [path for path, header in volumes.items() if header.series == series]
    return max(own, key=lambda path: volumes[path].height * volumes[path].width)


@lru_cache(maxsize=1 << 14)  # each slide of a folder asks for all files of it
def _cached_header(path: Path, size: int, changed: int) -> DicomHeader | None:
    with path.open("rb") as file:
        file.seek(_MAGIC_AT)
        if file.read(len(_MAGIC)) != _MAGIC:
            return None
        found = dict(_elements(file, explicit=True, wanted=_WANTED))
    kind = _text(found.get(_IMAGE_TYPE, b"")).split("\\")
    sides = [int.from_bytes(found.get(tag, b""), "little") for tag in (_ROWS, _COLUMNS)]
    return DicomHeader(_text(found.get(_SERIES, b"")), kind[2].strip() if len(kind) > 2 else "", sides[0], sides[1])


def _elements(file: BinaryIO, *, explicit: bool, wanted: tuple[int, ...] = ()) -> Iterator[tuple[int, bytes]]:
    """Yield the wanted elements, by tag, up to the end of the item or the last that can be wanted (PS3.5, 7.1)."""
    while len(start := file.read(4)) == 4:
        group, element = struct.unpack("<HH", start)
        tag = group << 16 | element
        if group == _DELIMITERS or (wanted and tag > wanted[-1]):
            file.seek(4, 1)
            return
        has_kind = explicit or group == 2  # the file's own header is always explicit
        kind = file.read(2) if has_kind else b""
        if has_kind and kind not in _LONG:
            (length,) = struct.unpack("<H", file.read(2))
        else:
            file.seek(2 if has_kind else 0, 1)
            (length,) = struct.unpack("<I", file.read(4))
        if length == _UNDEFINED:
            _skip_items(file, explicit=has_kind and kind != b"UN")
        elif tag in wanted:
            value = file.read(length)
            if tag == _TRANSFER_SYNTAX:
                explicit = _text(value) != _IMPLICIT
            yield tag, value
        else:
            file.seek(length, 1)


def _skip_items(file: BinaryIO, *, explicit: bool) -> None:
    while True:
        group, element, length = struct.unpack("<HHI", file.read(8))
        if group << 16 | element == _SEQUENCE_END:
            return
        if length != _UNDEFINED:
            file.seek(length, 1)
        else:
            for _ in _elements(file, explicit=explicit):
                pass


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")
