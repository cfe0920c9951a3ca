"""Pixels of TIFF files: every layout and codec, pyramids, alpha and missing tiles; only RGB is accepted."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.readers.tiffs import whole
from tissuebench.datasets.readers import tiff_level
from tissuebench.datasets.readers.tiff import TiffReader
from tissuebench.errors import DataError

LAYOUTS = {
    "tiles": {"tile": (64, 48)},
    "one tile": {"tile": (256, 256)},
    "strips": {"rowsperstrip": 7},
    "one strip": {"rowsperstrip": 1 << 20},
    "planar tiles": {"tile": (32, 32), "planarconfig": "separate"},
    "planar strips": {"rowsperstrip": 16, "planarconfig": "separate"},
}
CODECS = {
    "none": {},
    "lzw": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "deflate"},
    "jpeg2000": {"compression": "jpeg2000", "compressionargs": {"level": 0, "reversible": True}},
    "big endian": {"byteorder": ">", "compression": "lzw"},
    "bigtiff": {"bigtiff": True, "compression": "zstd"},
}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory, drawn):
    folder, image = tmp_path_factory.mktemp("layouts"), drawn.noise(151, 133)
    readers = []
    for layout, options in LAYOUTS.items():
        for codec, more in CODECS.items():
            path = folder / f"{layout} {codec}.tif"
            pixels = image.transpose(2, 0, 1) if "planarconfig" in options else image
            both = {**options, **more}
            tifffile.imwrite(path, pixels, photometric="rgb", **both)
            readers.append(TiffReader(path))
    yield readers, image
    for reader in readers:
        reader.close()


@given(data=st.data())
def test_every_layout_and_codec_gives_the_region(layouts, drawn, data):
    readers, image = layouts
    reader = data.draw(st.sampled_from(readers))
    y, x = data.draw(st.integers(-20, 170)), data.draw(st.integers(-20, 150))
    height, width = data.draw(st.integers(0, 180)), data.draw(st.integers(0, 160))
    region = reader.read(0, y, x, height, width)
    assert np.array_equal(region, drawn.on_canvas(image, y, x, height, width))


def test_all_layouts_were_written_as_they_are_called(layouts):
    readers, image = layouts
    assert len(readers) == len(LAYOUTS) * len(CODECS)
    for reader in readers:
        assert np.array_equal(reader.read(0, 0, 0, 151, 133), image)
        name, page = reader._path.name, reader._tif.pages.first
        assert page.is_tiled == ("tile" in name)
        assert (int(page.planarconfig) == 2) == ("planar" in name)
        assert reader._tif.is_bigtiff == ("bigtiff" in name)
        assert (len(page.dataoffsets) == 1) == (name.startswith("one "))


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {"rowsperstrip": 16}])
def test_jpeg_is_what_tifffile_decodes(tmp_path, drawn, layout, subsampling):
    path = tmp_path / "slide.tif"
    options = {"compression": "jpeg", "subsampling": subsampling, **layout}
    tifffile.imwrite(path, drawn.smooth(151, 133), photometric="rgb", **options)
    full = tifffile.imread(path)
    reader = TiffReader(path)
    assert np.array_equal(reader.read(0, 0, 0, 151, 133), full)
    assert np.array_equal(reader.read(0, 61, 30, 50, 90), full[61:111, 30:120])
    assert np.abs(full.astype(int) - drawn.smooth(151, 133)).mean() < 3


def test_only_the_tiles_of_a_region_are_decoded_and_few_are_kept(tmp_path, drawn, monkeypatch):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, drawn.noise(640, 640), photometric="rgb", tile=(64, 64), compression="deflate")
    reader = TiffReader(path)
    read, handle = [], type(reader._tif.filehandle)
    original = handle.read
    monkeypatch.setattr(handle, "read", lambda self, *size: read.append(size) or original(self, *size))
    reader.read(0, 64, 128, 128, 64)
    assert len(read) == 2
    reader.read(0, 70, 130, 50, 10)
    assert len(read) == 2  # kept
    small = TiffReader(path)
    small._cache._limit = 3 * 64 * 64 * 3
    small.read(0, 0, 0, 640, 640)
    assert len(small._cache._kept) == 3
    assert small._cache._bytes == small._cache._limit


def test_a_strip_beyond_the_bound_is_refused_with_advice(tmp_path, drawn, monkeypatch):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, drawn.noise(100, 90), photometric="rgb", rowsperstrip=100, compression="lzw")
    assert whole(path).shape == (100, 90, 3)
    monkeypatch.setattr(tiff_level, "MAX_SEGMENT_BYTES", 100 * 90 * 3 - 1)
    with pytest.raises(DataError, match=r"slide\.tif: one piece of 100 x 90 px is too large .* tiled TIFF"):
        TiffReader(path)


def test_a_single_strip_is_decoded_once(tmp_path, drawn, monkeypatch):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, drawn.noise(100, 90), photometric="rgb", rowsperstrip=100, compression="lzw")
    monkeypatch.setattr(tiff_level, "CACHE_BYTES", 10)
    reader = TiffReader(path)
    first = reader._tiff_levels[0]._segment(0, 0)
    reader.read(0, 3, 3, 20, 20)
    assert reader._tiff_levels[0]._segment(0, 0) is first


def test_an_ome_tiff_with_subifds(tmp_path, drawn):
    path = tmp_path / "slide.ome.tif"
    levels = [drawn.noise(300, 260)]
    levels += [drawn.halve(levels[0])]
    levels += [drawn.halve(levels[1])]
    metadata = {"axes": "YXS", "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(levels[0], photometric="rgb", tile=(64, 64), subifds=2, metadata=metadata)
        for level in levels[1:]:
            tiff.write(level, photometric="rgb", tile=(64, 64), subfiletype=1)
    reader = TiffReader(path)
    assert [(level.height, level.width, level.downsample) for level in reader.levels] == [
        (300, 260, 1.0), (150, 130, 2.0), (75, 65, 4.0)
    ]  # fmt: skip
    assert reader.mpp == pytest.approx(0.25)
    for number, level in enumerate(levels):
        assert np.array_equal(whole(path, number), level)


@pytest.mark.parametrize("options", [{"tile": (32, 32)}, {"rowsperstrip": 9, "compression": "lzw"}])
def test_an_ome_tiff_with_a_page_a_channel(tmp_path, drawn, options):
    path, image = tmp_path / "slide.ome.tif", drawn.noise(70, 60)
    tifffile.imwrite(path, image.transpose(2, 0, 1), photometric="minisblack", metadata={"axes": "CYX"}, **options)
    assert np.array_equal(whole(path), image)
    two = tmp_path / "two.ome.tif"
    tifffile.imwrite(two, image.transpose(2, 0, 1)[:2], photometric="minisblack", metadata={"axes": "CYX"}, **options)
    with pytest.raises(DataError, match="not 8-bit RGB"):
        TiffReader(two)


@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha", "unspecified"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_is_laid_over_white(tmp_path, kind, planar):
    rgba = np.zeros((16, 16, 4), dtype=np.uint8)
    rgba[0], rgba[1], rgba[2] = (10, 20, 30, 255), (50, 0, 100, 128), (0, 0, 0, 0)
    path = tmp_path / "slide.tif"
    pixels = rgba.transpose(2, 0, 1) if planar == "separate" else rgba
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=[kind], planarconfig=planar)
    expected = {
        "assocalpha": [[10, 20, 30], [177, 127, 227], [255] * 3],
        "unassalpha": [[10, 20, 30], [152, 127, 177], [255] * 3],
        "unspecified": [[10, 20, 30], [177, 127, 227], [255] * 3],  # as libtiff and the viewers that use it read it
    }[kind]
    assert whole(path)[:3, 5].tolist() == expected


def test_a_tile_that_was_left_out_is_glass(tmp_path, drawn):
    path, image = tmp_path / "slide.tif", drawn.noise(64, 64)
    tifffile.imwrite(path, image, photometric="rgb", tile=(32, 32), compression="deflate")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = list(tiff.pages[0].databytecounts)
        tiff.pages[0].tags["TileByteCounts"].overwrite([counts[0], 0, *counts[2:]])
    pixels = whole(path)
    assert (pixels[:32, 32:] == 255).all()
    assert np.array_equal(pixels[32:], image[32:])


def test_a_level_padded_to_whole_tiles_is_left_out(tmp_path, drawn):
    path, image = tmp_path / "slide.svs", drawn.smooth(400, 300)
    described = {"description": "Aperio Image Library v12\n400x300|MPP = 0.5", "metadata": None, "tile": (64, 64)}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, photometric="rgb", **described)
        tiff.write(image[:30, :30], photometric="rgb", metadata=None)  # an SVS's second page is its thumbnail
        tiff.write(np.zeros((256, 256, 3), np.uint8), photometric="rgb", tile=(64, 64), metadata=None)
        tiff.write(image[::4, ::4], photometric="rgb", tile=(64, 64), metadata=None)
    reader = TiffReader(path)
    assert [(level.height, level.width) for level in reader.levels] == [(400, 300), (100, 75)]
    assert np.array_equal(reader.read(1, 0, 0, 100, 75), image[::4, ::4])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grey", {"data": np.zeros((64, 64), np.uint8), "photometric": "minisblack"}),
        ("deep", {"data": np.zeros((64, 64, 3), np.uint16), "photometric": "rgb"}),
        ("float", {"data": np.zeros((64, 64, 3), np.float32), "photometric": "rgb"}),
        ("palette", {"data": np.zeros((64, 64), np.uint8), "photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}),
        ("cmyk", {"data": np.zeros((64, 64, 4), np.uint8), "photometric": "separated"}),
        ("stack", {"data": np.zeros((5, 64, 64, 3), np.uint8), "photometric": "rgb"}),
        ("ycbcr", {"data": np.zeros((64, 64, 3), np.uint8), "photometric": "ycbcr"}),
    ],
)  # fmt: skip
def test_what_is_not_rgb_is_refused(tmp_path, name, options):
    path = tmp_path / f"{name}.tif"
    tifffile.imwrite(path, **options)
    with pytest.raises(DataError, match=rf"{name}\.tif: not 8-bit RGB \(shape .*\); convert it or leave it out"):
        TiffReader(path)
