"""Search for a published dataset below the folder it was unpacked into."""

from __future__ import annotations

from pathlib import Path

from tissuebench.errors import DataError

_MAX_DEPTH = 3


def find_below(root: Path, marker: str, what: str) -> Path:
    """Return the folder that contains ``marker``: ``root``, or the only one at most three levels below it.

    Archives wrap their files in a folder or two, and users may unpack them into another one; both are found.

    Args:
        root: the source folder.
        marker: relative path of a file or folder that identifies the published layout.
        what: name of the dataset, for the message.

    Raises:
        DataError: no folder contains it, or several do.
    """
    level = [root]
    for _ in range(_MAX_DEPTH + 1):
        found = [folder for folder in level if (folder / marker).exists()]
        if len(found) > 1:
            raise DataError(f"{root}: found two copies of {what} ({found[0]} and {found[1]}); keep one")
        if found:
            return found[0]
        level = sorted(child for folder in level if folder.is_dir() for child in folder.iterdir() if _is_data(child))
    raise DataError(f"{root}: holds no {what}: {marker!r} is not found below it; unpack the published archive there")


def _is_data(path: Path) -> bool:
    # A link could lead out of the source folder, and archives made on a Mac contain a shadow copy of their files.
    return path.is_dir() and not path.is_symlink() and path.name != "__MACOSX" and not path.name.startswith(".")
