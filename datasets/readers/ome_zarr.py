"""Reader of OME-Zarr images (NGFF 0.4 in zarr v2, 0.5 in zarr v3), including the slides of our own stores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import defusedxml.ElementTree
import numpy as np
import zarr

from tissuebench.datasets.readers.failures import reading
from tissuebench.datasets.readers.images import FileImage, NotRgbError, choose_image
from tissuebench.datasets.readers.reader import Bounds, Level, Pixels
from tissuebench.datasets.readers.regions import inside, white
from tissuebench.datasets.readers.resolution import micrometres, square_mpp
from tissuebench.errors import DataError

MAX_CHUNK_BYTES = 1 << 30
_KIND = "an OME-Zarr image"
_VERSIONS = ("0.4", "0.5")
_SAFE_PATH = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*")


@dataclass(frozen=True, slots=True)
class _Multiscale:
    """Metadata of a pyramid: one letter per axis, the unit of each, the paths of the levels, the scale of level 0."""

    axes: str
    units: tuple[str, ...]
    paths: tuple[str, ...]
    scale: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class _Image:
    """One image of a folder: its group, the version of its metadata, the metadata, its name."""

    group: zarr.Group
    version: str
    multiscale: dict[str, Any]
    name: str

    def open(self, path: Path) -> tuple[_Multiscale, list[zarr.Array[Any]]]:
        """Return its metadata, understood, and its levels.

        Raises:
            NotRgbError: not an 8-bit RGB image of one plane.
            DataError: the metadata cannot be used.
        """
        found = _multiscale(path, self.version, self.multiscale)
        return found, [_array(path, self.group, one, found.axes) for one in found.paths]


class OmeZarrReader:
    """The slide among the multiscale images of a folder (bioformats2raw writes several); implements ``SlideReader``.

    A chunk whose file is missing reads as the array's fill value: zarr omits such chunks on purpose, so a copy that
    lost some cannot be distinguished from a sparse image. Translations are ignored: pixel 0 is the corner.

    Args:
        path: the folder.
        series: number or name of the image; if empty, see ``choose_image``.

    Raises:
        DataError: no such image, not 8-bit RGB, more than one time point or depth, or pixels that are not square.
    """

    def __init__(self, path: Path, series: str = "") -> None:
        self._path = path
        with reading(path, _KIND):
            images = _images(path, zarr.open_group(path, mode="r"))
            number, self.notes = choose_image(path, [_described(path, one) for one in images], series)
            found, self._arrays = images[number].open(path)
            self._axes = found.axes
            sizes = [(one.shape[found.axes.index("y")], one.shape[found.axes.index("x")]) for one in self._arrays]
            height, width = sizes[0]
            self.levels = tuple(Level(h, w, (height / h + width / w) / 2) for h, w in sizes)
            self.mpp = _mpp(path, found)
            self.metadata: Mapping[str, str] = {"ngff_version": images[number].version}
            self.bounds: Bounds | None = None

    def read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Return a region; see ``SlideReader.read``."""
        size, canvas = self.levels[level], white(height, width)
        y0, y1 = inside(y, height, size.height)
        x0, x1 = inside(x, width, size.width)
        if y1 > y0 and x1 > x0:
            where: dict[str, slice | int] = {"y": slice(y0, y1), "x": slice(x0, x1), "c": slice(0, 3)}
            with reading(self._path, _KIND):
                pixels = np.asarray(self._arrays[level][tuple(where.get(axis, 0) for axis in self._axes)])
                left = [axis for axis in self._axes if axis in where]
                pixels = pixels.transpose([left.index(axis) for axis in "yxc"])
            canvas[y0 - y : y1 - y, x0 - x : x1 - x] = pixels
        return canvas

    def close(self) -> None:
        """Do nothing: no file is held open; a chunk's file is opened when it is read."""


def _images(path: Path, root: zarr.Group) -> list[_Image]:
    document, groups, names = _ome(root), [root], list[str]()
    if "multiscales" not in document and "bioformats2raw.layout" in document:
        groups = [_series(path, root, name) for name in _series_paths(root)]
        names = _ome_xml_names(path)
    described = [_ome(group) for group in groups]
    images = [
        _Image(group, str(one["version"]), multiscale, str(multiscale.get("name") or ""))
        for group, one in zip(groups, described, strict=True)
        for multiscale in one.get("multiscales") or ()
    ]
    if not images:
        slides = path / "slides"
        advice = f"give one slide of it, {slides}/<slide_id>" if slides.is_dir() else "give the folder of one image"
        raise DataError(f"{path}: holds no OME-Zarr image (no 'multiscales'); {advice}")
    if len(names) == len(images):
        images = [replace(image, name=name or image.name) for image, name in zip(images, names, strict=True)]
    return images


def _series(path: Path, root: zarr.Group, name: str) -> zarr.Group:
    if not _SAFE_PATH.fullmatch(name):
        raise DataError(f"{path}: path {name!r} of a series leads out of the folder or is no plain name; replace it")
    series = root[name]
    if not isinstance(series, zarr.Group):
        raise DataError(f"{path}: series {name} is no group; replace the folder")
    return series


def _series_paths(root: zarr.Group) -> list[str]:
    """Return the paths of the series: those that the group ``OME`` lists, or 0, 1, 2, ... (NGFF, bioformats2raw)."""
    described = root.get("OME")
    listed = _ome(described).get("series") if isinstance(described, zarr.Group) else None
    if listed:
        return [str(name) for name in listed]
    count = 1
    while str(count) in root:
        count += 1
    return [str(number) for number in range(count)]


def _ome_xml_names(path: Path) -> list[str]:
    """Return the names of the images in the metadata that bioformats2raw copies into the folder; none without it."""
    document = path / "OME" / "METADATA.ome.xml"
    if not document.is_file():
        return []
    root = defusedxml.ElementTree.fromstring(document.read_bytes())
    return [str(node.get("Name", "")) for node in root if str(node.tag).rpartition("}")[2] == "Image"]


def _described(path: Path, image: _Image) -> FileImage:
    try:
        found, arrays = image.open(path)
    except NotRgbError:
        return FileImage(image.name, 0, 0, rgb=False)
    height, width = (arrays[0].shape[found.axes.index(axis)] for axis in "yx")
    try:
        mpp = _mpp(path, found)
    except DataError:  # pixels that are not square are refused only in the image that is read
        mpp = None
    return FileImage(image.name, height, width, len(arrays), mpp)


def _ome(group: zarr.Group) -> dict[str, Any]:
    attributes = cast("dict[str, Any]", dict(group.attrs))
    document = attributes.get("ome", attributes)  # 0.5 nests the metadata under a key, 0.4 does not
    if not isinstance(document, dict):
        raise ValueError("'ome' is no mapping")
    multiscales = document.get("multiscales") or [{}]
    assumed = "0.4" if group.metadata.zarr_format == 2 else "?"  # 0.4 recommends the version, 0.5 requires it
    return {**document, "version": document.get("version", multiscales[0].get("version", assumed))}


def _multiscale(path: Path, version: str, multiscale: dict[str, Any]) -> _Multiscale:
    if version not in _VERSIONS:
        raise DataError(f"{path}: OME-Zarr {version!r}; {' and '.join(_VERSIONS)} are read, convert it")
    axes = "".join(axis["name"] for axis in multiscale["axes"])
    if sorted(axes.replace("t", "").replace("z", "")) != ["c", "x", "y"] or len(set(axes)) != len(axes):
        raise NotRgbError(f"{path}: not 8-bit RGB (axes {axes!r}); an image with axes c, y and x is needed")
    datasets = multiscale["datasets"]
    paths = [str(dataset["path"]) for dataset in datasets]
    for name in paths:
        if not _SAFE_PATH.fullmatch(name):
            raise DataError(f"{path}: level path {name!r} leads out of the folder or is no plain name; replace it")
    scale = np.ones(len(axes))
    told = False
    for step in (*datasets[0].get("coordinateTransformations", ()), *multiscale.get("coordinateTransformations", ())):
        if step["type"] == "scale":
            if len(step["scale"]) != len(axes):
                raise DataError(f"{path}: scale {step['scale']} has not one number an axis ({axes!r}); correct it")
            scale, told = scale * np.array(step["scale"], dtype=float), True
    units = tuple(str(axis.get("unit", "")) for axis in multiscale["axes"])
    return _Multiscale(axes, units, tuple(paths), tuple(scale.tolist()) if told else None)


def _array(path: Path, group: zarr.Group, name: str, axes: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array) or array.ndim != len(axes):
        raise DataError(f"{path}: level {name!r} is no array with the axes {axes!r}; replace the folder")
    shape = dict(zip(axes, array.shape, strict=True))
    if array.dtype != np.uint8 or shape["c"] != 3:
        raise NotRgbError(f"{path}: not 8-bit RGB (shape {array.shape}, {array.dtype}); convert it or leave it out")
    for axis in ("t", "z"):
        if shape.get(axis, 1) != 1:
            raise NotRgbError(f"{path}: {shape[axis]} planes along {axis!r}; a slide has one, extract it")
    if min(array.shape) < 1:
        raise DataError(f"{path}: level {name!r} has no pixels; replace the folder")
    if int(np.prod(array.chunks)) > MAX_CHUNK_BYTES:
        raise DataError(f"{path}: chunks of {array.chunks} are too large to read at once; write it in smaller ones")
    return array


def _mpp(path: Path, found: _Multiscale) -> float | None:
    if found.scale is None:
        return None
    sides = [micrometres(found.scale[at], found.units[at]) for at in (found.axes.index("x"), found.axes.index("y"))]
    return square_mpp(path, *sides)
