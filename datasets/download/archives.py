"""Safe unpacking of untrusted zip and tar archives: checked before anything is written, moved in place when done."""

from __future__ import annotations

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tissuebench.common.folders import made_aside
from tissuebench.errors import DataError

_MAX_MEMBERS = 2_000_000
_DRIVE = re.compile(r"[A-Za-z]:")
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # also NotImplementedError: a compression that zipfile does not know
)


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size_bytes: int
    is_folder: bool
    fault: str  # why it is refused; empty if it is a file or a folder
    extract: Callable[[Path], object]


def unpack(archive: Path, target: Path, limit_bytes: int, progress: Callable[[str, int, int], None]) -> None:
    """Unpack ``archive`` into the new folder ``target``.

    Args:
        archive: zip, or tar with any compression.
        target: must not exist; until everything is unpacked the files are kept next to it under a hidden name.
        limit_bytes: maximum total size of the members.
        progress: called for every member.

    Raises:
        DataError: not an archive, broken, encrypted, larger than the limit, or with a member that is absolute, leaves
            the folder with ``..``, is a link or a device, or appears twice. Nothing is left half-written.
    """
    try:
        with made_aside(target) as aside:
            _unpack(archive, aside, limit_bytes, progress)
    except _BROKEN as error:
        raise DataError(
            f"{archive}: cannot be unpacked ({' '.join(str(error).split())}); delete it and download it again"
        ) from None


def _unpack(archive: Path, aside: Path, limit_bytes: int, progress: Callable[[str, int, int], None]) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            _extract(archive, [_of_zip(opened, info) for info in opened.infolist()], aside, limit_bytes, progress)
    else:
        with tarfile.open(archive) as tar:
            _extract(archive, [_of_tar(tar, info) for info in tar], aside, limit_bytes, progress)


def _extract(
    archive: Path, members: Sequence[_Member], aside: Path, limit_bytes: int, progress: Callable[[str, int, int], None]
) -> None:
    _require_harmless(archive, members, limit_bytes)

    for number, member in enumerate(members, start=1):
        member.extract(aside)
        progress(f"unpacking {archive.name}", number, len(members))


def _require_harmless(archive: Path, members: Sequence[_Member], limit_bytes: int) -> None:
    seen: set[PurePosixPath] = set()
    for member in members:
        path = PurePosixPath(member.name)
        fault = member.fault
        if path.is_absolute() or ".." in path.parts or "\\" in member.name or _DRIVE.match(member.name):
            fault = "leads out of the folder"
        elif path in seen and not member.is_folder:
            fault = "appears twice"
        if fault:
            raise DataError(
                f"{archive}: its member {member.name!r} {fault}; nothing was unpacked; get another copy of the archive"
            )
        seen.add(path)
    total = sum(member.size_bytes for member in members)
    if total > limit_bytes or len(members) > _MAX_MEMBERS:
        raise DataError(
            f"{archive}: would unpack to {len(members)} members of {total} bytes, more than {_MAX_MEMBERS} or "
            f"{limit_bytes}; nothing was unpacked"
        )


def _of_zip(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    fault = ""
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        fault = "is a link" if kind == stat.S_IFLNK else "is neither a file nor a folder"
    elif info.flag_bits & 1:
        fault = "is encrypted"
    return _Member(info.filename, info.file_size, info.is_dir(), fault, lambda aside: opened.extract(info, aside))


def _of_tar(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    fault = ""
    if not (info.isreg() or info.isdir()):
        fault = "is a link" if info.issym() or info.islnk() else "is neither a file nor a folder"
    return _Member(info.name, info.size, info.isdir(), fault, lambda aside: tar.extract(info, aside, filter="data"))
