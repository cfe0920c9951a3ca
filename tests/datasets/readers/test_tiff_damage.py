"""Damaged TIFF files: either the right pixels or an error of one line."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.readers.tiffs import whole
from tissuebench.datasets.readers import open_slide
from tissuebench.datasets.readers.tiff import TiffReader
from tissuebench.errors import DataError


@pytest.mark.parametrize("compression", [None, "deflate", "jpeg"])
@pytest.mark.parametrize("layout", [{"tile": None}, {"tile": (128, 128)}])
@pytest.mark.parametrize("levels", [1, 3])
def test_a_cut_off_tiff_is_refused_when_it_is_opened(tmp_path, drawn, compression, layout, levels):
    """A JPEG strip that is cut off would decode to grey without an error, a page that is cut off would be no level."""
    image = drawn.smooth()
    path = drawn.pyramid(tmp_path / "whole.tif", image, 0.5, levels=levels, compression=compression, **layout)
    full, raw = [whole(path, number) for number in range(levels)], path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        between = [page.offset + more for page in list(tiff.pages)[1:] for more in (0, 1, 9)]
    cut, refused = tmp_path / "cut.tif", 0
    for length in (*np.linspace(0, len(raw) - 1, 60, dtype=int), *between):
        cut.write_bytes(raw[:length])
        try:
            reader = TiffReader(cut)
        except DataError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert len(reader.levels) == levels
            assert all(np.array_equal(whole(cut, number), full[number]) for number in range(levels))
    assert refused >= 58 + len(between)


def test_damaged_tags_are_a_data_error_or_pixels_and_nothing_else(tmp_path, drawn):
    path = drawn.pyramid(tmp_path / "slide.tif", drawn.smooth(96, 80), 0.5, levels=2)
    raw = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        tags = [(tag.name, tag.offset) for page in tiff.pages for tag in page.tags]
    refused = set()
    for name, offset in tags:
        for field in (slice(0, 2), slice(2, 4), slice(4, 8), slice(8, 12)):  # number, type, count, value
            for value in (0, 255):
                damaged = bytearray(raw)
                damaged[offset + field.start : offset + field.stop] = bytes([value]) * (field.stop - field.start)
                path.write_bytes(bytes(damaged))
                try:
                    with open_slide(path, 1.0, 0.5) as slide:
                        assert slide.region(0, 0, 300, 300).shape == (300, 300, 3)
                except DataError as error:
                    assert "\n" not in str(error)
                    refused.add(name)
    assert {"ImageWidth", "BitsPerSample", "SamplesPerPixel"} <= refused


@given(st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_are_a_data_error_or_pixels_and_nothing_else(tmp_path_factory, drawn, damage):
    path = tmp_path_factory.getbasetemp() / "damaged.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.5}
    tifffile.imwrite(path, drawn.smooth(40, 30), photometric="rgb", tile=(16, 16), compression="lzw", metadata=metadata)
    raw = bytearray(path.read_bytes())
    for at, value in damage:
        raw[at] = value
    path.write_bytes(bytes(raw))
    try:
        with open_slide(path, 1.0, 0.5) as slide:
            assert slide.region(0, 0, 40, 40).shape == (40, 40, 3)
    except DataError as error:
        assert "\n" not in str(error)


def test_a_damaged_file_says_nothing_beside_the_error(tmp_path, drawn):
    """tifffile logs what it finds, and a log that nobody configured goes to stderr."""
    path = drawn.pyramid(tmp_path / "cut.tif", drawn.smooth(300, 300), 0.5, levels=3)
    path.write_bytes(path.read_bytes()[:-4000])
    code = (
        "import sys; from pathlib import Path; from tissuebench.datasets.readers import open_slide\n"
        "from tissuebench.errors import DataError\n"
        "try: open_slide(Path(sys.argv[1]), None)\n"
        "except DataError as error: print(error)\n"
        "assert 'zarr' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code, path], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert result.stdout.startswith(f"{path}: is cut off")
    assert result.stdout.count("\n") == 1
