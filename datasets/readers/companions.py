"""The other files of a slide that consists of several: DICOM series, MIRAX, Hamamatsu VMS and VMU."""

from __future__ import annotations

from pathlib import Path

from tissuebench.datasets.readers.dicom import dicom_files, dicom_header

_DICOM, _MIRAX, _HAMAMATSU = ".dcm", ".mrxs", (".vms", ".vmu")
_MAX_INDEX_BYTES = 1 << 22


def companions(path: Path) -> tuple[Path, ...]:
    """Return the other files that belong to a slide, in the order of their names; none for a slide of one file.

    A DICOM slide is the files of one series in a folder, as OpenSlide combines them; for a slide that is named by its
    folder, these are all of its files. A MIRAX slide keeps its pixels in a folder of its name. A VMS or VMU file names
    its images and maps: only files beside it are followed.

    Args:
        path: a slide as the manifest names it. It need not exist.
    """
    try:
        return tuple(_companions(path))
    except OSError:  # the reader of the slide says what is wrong with it
        return ()


def _companions(path: Path) -> list[Path]:
    suffix = path.suffix.lower()
    if path.is_dir():
        return list(dicom_files(path)) if suffix != ".zarr" else []
    if suffix == _DICOM and (own := dicom_header(path)) is not None:
        files = dicom_files(path.parent)
        return [other for other, header in files.items() if header.series == own.series and other != path]
    if suffix == _MIRAX:
        return sorted(one for one in path.with_suffix("").rglob("*") if one.is_file())
    if suffix in _HAMAMATSU and path.is_file():
        return sorted({one for name in _names(path) if (one := path.parent / name).is_file() and one != path})
    return []


def _names(index: Path) -> list[str]:
    """Return the values of an INI file that are plain file names."""
    with index.open("rb") as file:
        lines = file.read(_MAX_INDEX_BYTES).decode("utf-8", errors="replace").splitlines()
    values = [line.partition("=")[2].strip() for line in lines]
    return [name for name in values if name and not {"/", "\\", "\0"} & set(name) and name not in (".", "..")]
