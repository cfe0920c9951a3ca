"""Files that a manifest names: separators of Windows, and names that differ by capitals or composed umlauts."""

from __future__ import annotations

from pathlib import Path

from tissuebench.common.text_files import tidy
from tissuebench.errors import DataError


def file_named(folder: Path, name: str, where: str) -> Path:
    r"""Return the path of a file as a manifest names it; it need not exist.

    ``slides\S1.tif`` is ``slides/S1.tif`` where that exists, and a name may have its umlauts composed or decomposed.

    Args:
        folder: folder of the manifest.
        name: name as the manifest has it, relative to the folder.
        where: file, row and column, for messages.

    Raises:
        DataError: no such file, but one whose name differs by capitals.
    """
    given = folder / name
    options = [given, folder / name.replace("\\", "/")]
    found = next((path for path in options if path.exists()), None)
    if found is not None:
        return found
    alike = _alike(folder, Path(name.replace("\\", "/")))
    if alike is None:
        return given
    shown = alike.relative_to(folder) if alike.is_relative_to(folder) else alike
    if tidy(shown.as_posix()) == tidy(name.replace("\\", "/")):
        return alike
    raise DataError(f"{where} {name!r}: no such file; did you mean {shown.as_posix()!r}?")


def _alike(folder: Path, name: Path) -> Path | None:
    """Return the only file whose name is the same but for capitals and the composition of umlauts."""
    at = [folder]
    for part in name.parts:
        if part in ("/", "\\", "..", ".") or part == name.anchor:
            at = [path / part for path in at]
            continue
        wanted = tidy(part).casefold()
        try:
            at = [found for path in at for found in path.iterdir() if tidy(found.name).casefold() == wanted]
        except OSError:  # not a folder, or not readable
            return None
    return at[0] if len(at) == 1 else None
