from __future__ import annotations

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from tissuebench.datasets.readers import open_slide
from tissuebench.datasets.readers.ome_zarr import OmeZarrReader
from tissuebench.errors import DataError


def write(path, levels, *, version="0.5", axes="cyx", unit="micrometer", mpp=0.5, extra=1.0, group=""):
    """A multiscale image by zarr alone; ``levels`` are (H, W, 3)."""
    zarr_format = 3 if version == "0.5" else 2
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    image = root.create_group(group) if group else root
    datasets = []
    for number, pixels in enumerate(levels):
        missing = [axis for axis in axes if axis not in "yxc"]
        data = pixels.transpose(["yxc".index(axis) for axis in axes if axis in "yxc"])
        data = np.expand_dims(data, [axes.index(axis) for axis in missing])
        chunks = tuple(64 if axis in "yx" else 1 for axis in axes)
        array = image.create_array(str(number), shape=data.shape, dtype="uint8", chunks=chunks)
        array[...] = data
        scale = [mpp * 2**number if axis in "yx" else 1.0 for axis in axes]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    kinds = {"c": "channel", "t": "time"}
    described = [
        {"name": axis, "type": kinds.get(axis, "space"), **({"unit": unit} if unit and axis in "zyx" else {})}
        for axis in axes
    ]
    multiscale = {"axes": described, "datasets": datasets}
    if extra != 1.0:
        everywhere = [extra if axis in "yx" else 1.0 for axis in axes]
        multiscale["coordinateTransformations"] = [{"type": "scale", "scale": everywhere}]
    if version == "0.5":
        image.attrs["ome"] = {"version": version, "multiscales": [multiscale]}
    else:
        image.attrs["multiscales"] = [{**multiscale, "version": version}]
    if group and version == "0.5":
        root.attrs["ome"] = {"version": version, "bioformats2raw.layout": 3}
    elif group:
        root.attrs["bioformats2raw.layout"] = 3
    return path


@pytest.fixture(scope="module")
def levels(drawn):
    full = drawn.noise(200, 170)
    return [full, drawn.halve(full), drawn.halve(drawn.halve(full))]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["cyx", "tczyx", "yxc", "zyxc"])
@pytest.mark.parametrize("group", ["", "0"])
def test_axes_go_by_name_and_series_by_number(tmp_path, levels, drawn, version, axes, group):
    path = write(tmp_path / "slide.ome.zarr", levels, version=version, axes=axes, group=group)
    reader = OmeZarrReader(path)
    sizes = [(level.height, level.width, round(level.downsample, 1)) for level in reader.levels]
    assert sizes == [(200, 170, 1.0), (100, 85, 2.0), (50, 42, 4.0)]
    assert reader.mpp == pytest.approx(0.5)
    assert reader.metadata == {"ngff_version": version}
    for number, pixels in enumerate(levels):
        assert np.array_equal(reader.read(number, 0, 0, *pixels.shape[:2]), pixels)
    with open_slide(path, 1.0) as slide:
        assert np.array_equal(slide.region(-3, 40, 60, 70), drawn.on_canvas(levels[1], -3, 40, 60, 70))


@pytest.fixture(scope="module")
def reader(tmp_path_factory, levels):
    return OmeZarrReader(write(tmp_path_factory.mktemp("zarr") / "slide.zarr", levels[:1]))


@given(y=st.integers(-80, 220), x=st.integers(-80, 190), height=st.integers(0, 230), width=st.integers(0, 230))
def test_a_region_is_the_crop(reader, levels, drawn, y, x, height, width):
    assert np.array_equal(reader.read(0, y, x, height, width), drawn.on_canvas(levels[0], y, x, height, width))


@pytest.mark.parametrize(
    ("unit", "scale", "extra", "mpp"),
    [
        ("micrometer", 0.5, 1.0, 0.5),
        ("nanometer", 250.0, 1.0, 0.25),
        ("millimeter", 0.001, 1.0, 1.0),
        ("micrometer", 1.0, 0.25, 0.25),
        ("", 0.5, 1.0, None),
        ("parsec", 0.5, 1.0, None),
        ("micrometer", 1000.0, 1.0, None),
    ],
)
def test_the_resolution_is_the_scale_in_its_unit(tmp_path, levels, unit, scale, extra, mpp):
    path = write(tmp_path / "slide.zarr", levels[:1], unit=unit, mpp=scale, extra=extra)
    assert OmeZarrReader(path).mpp == (None if mpp is None else pytest.approx(mpp))


@pytest.mark.filterwarnings("ignore:The 'coordinate_transformations' argument is deprecated:DeprecationWarning")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_what_ome_zarr_py_writes(tmp_path, levels, version):
    ome_zarr = pytest.importorskip("ome_zarr.writer")
    formats = pytest.importorskip("ome_zarr.format")
    path = tmp_path / "slide.zarr"
    kind = {"0.4": formats.FormatV04, "0.5": formats.FormatV05}[version]()
    root = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    scales = [[{"type": "scale", "scale": [1.0, 0.25 * 2**n, 0.25 * 2**n]}] for n in range(3)]
    axes = [{"name": "c", "type": "channel"}] + [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    pyramid = [pixels.transpose(2, 0, 1) for pixels in levels]
    ome_zarr.write_multiscale(pyramid, root, fmt=kind, axes=axes, coordinate_transformations=scales)
    reader = OmeZarrReader(path)
    assert reader.mpp == pytest.approx(0.25)
    assert reader.metadata["ngff_version"] == version
    assert len(reader.levels) == 3
    for number, pixels in enumerate(levels):
        assert np.array_equal(reader.read(number, 0, 0, *pixels.shape[:2]), pixels)


def test_a_slide_of_our_own_store(tiny_data):
    name = sorted(tiny_data.store.slides)[0]
    known = tiny_data.store.slides[name]
    with open_slide(tiny_data.store.path / "slides" / name, None) as slide:
        assert (slide.height, slide.width) == (known.height, known.width)
        stored = tiny_data.store.image(name, 0, 0, known.height, known.width).transpose(1, 2, 0)
        assert np.array_equal(slide.region(0, 0, known.height, known.width), stored)
    with pytest.raises(DataError, match=r"no 'multiscales'\); give one slide of it, .*slides/<slide_id>"):
        open_slide(tiny_data.store.path, None)


def edit(path, change):
    file = path / "zarr.json"
    document = json.loads(file.read_text())
    change(document["attributes"]["ome"]["multiscales"][0])
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda one: one["datasets"][0].update(path="../other"), "leads out of the folder"),
        (lambda one: one["datasets"][0].update(path="/etc"), "leads out of the folder"),
        (lambda one: one["datasets"][0].update(path="0/../../x"), "leads out of the folder"),
        (lambda one: one["datasets"][0].update(path="7"), "cannot be read"),
        (lambda one: one["datasets"].clear(), "cannot be read"),
        (lambda one: one.pop("axes"), "cannot be read"),
        (lambda one: one["axes"].pop(), r"not 8-bit RGB \(axes 'cy'\)"),
        (lambda one: one["axes"][0].update(name="z"), "not 8-bit RGB"),
        (
            lambda one: one["datasets"][0].update(coordinateTransformations=[{"type": "scale", "scale": [1]}]),
            "one number an axis",
        ),
        (
            lambda one: one["datasets"][0].update(
                coordinateTransformations=[{"type": "scale", "scale": [1, 0.5, 0.25]}]
            ),
            "not square",
        ),
    ],
)
def test_metadata_that_misleads_is_one_line(tmp_path, levels, change, says):
    path = write(tmp_path / "slide.zarr", levels[:1])
    edit(path, change)
    with pytest.raises(DataError, match=says) as caught:
        OmeZarrReader(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_other_versions_depths_and_types_are_refused(tmp_path, levels):
    path = write(tmp_path / "old.zarr", levels[:1], version="0.3")
    with pytest.raises(DataError, match=r"OME-Zarr '0\.3'; 0\.4 and 0\.5 are read"):
        OmeZarrReader(path)
    deep = write(tmp_path / "deep.zarr", levels[:1], axes="zyxc")
    shutil.rmtree(deep / "0")
    zarr.open_group(deep).create_array("0", shape=(2, 40, 40, 3), dtype="uint8", chunks=(1, 40, 40, 3))
    with pytest.raises(DataError, match="2 planes along 'z'"):
        OmeZarrReader(deep)
    for name, shape, kind in (("grey", (1, 40, 40), "uint8"), ("wide", (3, 40, 40), "uint16")):
        path = write(tmp_path / f"{name}.zarr", levels[:1])
        shutil.rmtree(path / "0")
        zarr.open_group(path).create_array("0", shape=shape, dtype=kind, chunks=(1, 40, 40))
        with pytest.raises(DataError, match=rf"{name}\.zarr: not 8-bit RGB"):
            OmeZarrReader(path)


class RunsCode:
    """What unpickling does with this is make a folder."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (self.proof,)


@pytest.mark.parametrize("place", ["compressor", "filters", "codecs"])
def test_a_codec_that_runs_code_is_refused(tmp_path, levels, place):
    """numcodecs has a codec ``pickle``; zarr must go on refusing it."""
    path = write(tmp_path / "slide.zarr", levels[:1], version="0.5" if place == "codecs" else "0.4")
    proof = tmp_path / "proof"
    metadata = path / "0" / ("zarr.json" if place == "codecs" else ".zarray")
    pickling = {"id": "pickle", "protocol": 5}
    codecs = [{"name": "bytes"}, {"name": "numcodecs.pickle", "configuration": {"protocol": 5}}]
    change = {"compressor": pickling, "filters": [pickling], "codecs": codecs}[place]
    document = {**json.loads(metadata.read_text()), **({"compressor": None} if place == "filters" else {})}
    metadata.write_text(json.dumps({**document, place: change}))
    for file in (path / "0").rglob("*"):
        if file.is_file() and file.name not in ("zarr.json", ".zarray", ".zattrs"):
            file.write_bytes(pickle.dumps(RunsCode(str(proof))))
    with pytest.raises(DataError, match=r"slide\.zarr: cannot be read"):
        OmeZarrReader(path).read(0, 0, 0, 200, 170)
    assert not proof.exists()


def test_damaged_chunks_are_one_line(tmp_path, levels):
    path = write(tmp_path / "slide.zarr", levels[:1])
    chunk = next(file for file in (path / "0" / "c").rglob("*") if file.is_file())
    chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.raises(DataError) as caught:
        OmeZarrReader(path).read(0, 0, 0, 200, 170)
    assert "\n" not in str(caught.value)
    assert "slide.zarr" in str(caught.value)
