"""Choice of the reader for a file: by its suffix, or by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tissuebench.datasets.readers.openslide import OPENSLIDE_SUFFIXES, OpenSlideReader
from tissuebench.datasets.readers.plain import PLAIN_SUFFIXES, PlainReader
from tissuebench.datasets.readers.reader import SlideReader
from tissuebench.datasets.readers.tiff import TIFF_SUFFIXES, TiffReader
from tissuebench.datasets.readers.upright import UprightReader
from tissuebench.errors import DataError, unknown_name

_OME_ZARR = "ome-zarr"


def _open_tiff(path: Path, series: str) -> SlideReader:
    reader = TiffReader(path, series)
    return reader if reader.orientation == 1 else UprightReader(path, reader, reader.orientation)


def _open_ome_zarr(path: Path, series: str) -> SlideReader:
    from tissuebench.datasets.readers.ome_zarr import OmeZarrReader  # zarr is slow to import and rarely needed

    return OmeZarrReader(path, series)


def _of_one_image(reader: Callable[[Path], SlideReader]) -> Callable[[Path, str], SlideReader]:
    """Return how to open a format of which one image is read."""

    def opened(path: Path, series: str) -> SlideReader:
        if series not in ("", "0"):
            raise DataError(f"{path}: holds no choice of images; leave 'series' empty, not {series!r}")
        return reader(path)

    return opened


_READERS: dict[str, Callable[[Path, str], SlideReader]] = {
    "tifffile": _open_tiff,
    "openslide": _of_one_image(OpenSlideReader),
    _OME_ZARR: _open_ome_zarr,
    "plain": _of_one_image(PlainReader),
}
_BY_SUFFIX = {
    **dict.fromkeys(TIFF_SUFFIXES, "tifffile"),
    **dict.fromkeys(OPENSLIDE_SUFFIXES, "openslide"),
    ".zarr": _OME_ZARR,
    **dict.fromkeys(PLAIN_SUFFIXES, "plain"),
}
SLIDE_SUFFIXES = tuple(_BY_SUFFIX)
_ZARR_FILES = ("zarr.json", ".zgroup")


def open_reader(path: Path, name: str = "", series: str = "") -> SlideReader:
    """Open a file with the reader for its suffix, or with the named one.

    A folder without an OME-Zarr image is taken for that of a DICOM slide.

    Args:
        path: the file or folder.
        name: name of the reader; if empty, chosen by the suffix.
        series: number or name of the image in a file that holds several; see ``choose_image``.

    Raises:
        DataError: no such file, a folder instead of a file, empty file, unknown suffix or name, or an error of the
            reader.
    """
    if name and name not in _READERS:
        raise DataError(f"{path}: {unknown_name('reader', name, _READERS)}")
    try:
        exists, is_folder = path.exists(), path.is_dir()
        is_zarr = is_folder and any((path / one).is_file() for one in _ZARR_FILES)
        is_empty = exists and not is_folder and path.stat().st_size == 0
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); check the manifest's column 'image'") from None
    if not exists:
        raise DataError(f"{path}: no such file; check the manifest's column 'image'")
    suffix = path.suffix.lower()
    if not name and is_folder:  # slides in TissueBench stores have no suffix
        name = _OME_ZARR if is_zarr or suffix == ".zarr" else "openslide"
    name = name or _BY_SUFFIX.get(suffix, "")
    if not name:
        raise DataError(f"{path}: {unknown_name('slide format', suffix, SLIDE_SUFFIXES)}")
    if is_folder and name not in (_OME_ZARR, "openslide"):
        raise DataError(f"{path}: is a folder, a slide file is needed; check the manifest's column 'image'")
    if not is_folder and name == _OME_ZARR:
        raise DataError(f"{path}: is a file, an OME-Zarr image is a folder; check the manifest's column 'image'")
    if is_empty:
        raise DataError(f"{path}: is empty (0 bytes); copy it again")
    return _READERS[name](path, series)
