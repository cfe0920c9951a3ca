"""The readers on slides that scanners made; the shared data's README says what is special about each."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tissuebench.datasets.readers import open_slide, require_brightfield
from tissuebench.datasets.readers.openslide import OpenSlideReader
from tissuebench.datasets.readers.tiff import TiffReader
from tissuebench.datasets.synthetic import SyntheticConfig, cohort, render_slide
from tissuebench.errors import DataError

CMU, TCGA, TRITC = "CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs", "test3-TRITC-560.ndpi"
OME, PYRAMID = "cmu_small_region.ome.tif", "cmu_small_region_pyramid.tif"
FOUR = [(2967, 2220), (1483, 1110), (741, 555), (370, 277)]


@pytest.fixture(scope="module")
def slides(shared_data):
    return shared_data / "wsi_small"


@pytest.mark.parametrize(
    ("name", "reader", "levels", "mpp"),
    [
        (CMU, "tifffile", [(2967, 2220)], 0.499),
        (CMU, "openslide", [(2967, 2220)], 0.499),
        (TCGA, "tifffile", [(3567, 4443), (1783, 2221)], None),
        (TCGA, "openslide", [(3567, 4443), (1783, 2221)], None),
        (TRITC, "openslide", [(4864 >> n, 3968 >> n) for n in range(7)], 0.2282),
        (TRITC, "tifffile", [(4864 >> n, 3968 >> n) for n in range(4)], 0.2282),
        (OME, "tifffile", FOUR, 0.499),
        (OME, "openslide", FOUR[:1], 0.499),
        (PYRAMID, "tifffile", FOUR, 0.499),
        (PYRAMID, "openslide", FOUR, 0.499),
    ],
)
def test_levels_and_resolutions(slides, name, reader, levels, mpp):
    with open_slide(slides / name, None, reader=reader) as slide:
        assert [(level.height, level.width) for level in slide._reader.levels] == levels
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-3))
        assert slide.level0_size == levels[0]
        default = "openslide" if name == TRITC else "tifffile"
        with open_slide(slides / name, None) as chosen:
            assert (type(chosen._reader) is type(slide._reader)) == (reader == default)


def test_metadata_say_the_scanner(slides):
    with open_slide(slides / CMU, None) as ours, open_slide(slides / CMU, None, reader="openslide") as theirs:
        assert dict(ours.metadata) == dict(theirs.metadata) == {"vendor": "aperio", "objective_power": "20"}


def test_a_slide_without_a_resolution(slides):
    with pytest.raises(DataError, match=r"TCGA-CR-7395.*column 'mpp'"):
        open_slide(slides / TCGA, 1.0)
    with open_slide(slides / TCGA, 0.5, mpp_override=0.25) as slide:  # from the level of half the size, as it is
        assert (slide.height, slide.width) == (1784, 2222)
        half = TiffReader(slides / TCGA).read(1, 0, 0, 1783, 2221)
        assert np.array_equal(slide.region(0, 0, 1783, 2221), half)


@pytest.mark.parametrize(("name", "level"), [(CMU, 0), (TCGA, 0), (PYRAMID, 0), (OME, 0), (TRITC, 0), (TRITC, 3)])
def test_tifffile_and_openslide_agree_on_every_pixel(slides, name, level):
    """JPEG in RGB and in YCbCr, JPEG 2000, NDPI's strips without restarts: the largest difference measured is 0."""
    ours, theirs = TiffReader(slides / name), OpenSlideReader(slides / name)
    size = ours.levels[level]
    rng = np.random.default_rng(0)
    regions = [(0, 0, size.height, size.width), (-40, -70, 200, 300), (size.height - 90, size.width - 61, 200, 150)]
    regions += [(int(rng.integers(size.height)), int(rng.integers(size.width)), 257, 301) for _ in range(6)]
    for region in regions:
        first, second = ours.read(level, *region), theirs.read(level, *region)
        assert np.array_equal(first, second), region
    assert (ours.read(level, -40, -70, 200, 300)[:40] == 255).all()


def test_two_formats_give_the_same_slide(slides, drawn):
    with open_slide(slides / OME, 2.0) as ome, open_slide(slides / PYRAMID, 2.0) as plain:
        assert (ome.height, ome.width) == (plain.height, plain.width) == (740, 554)
        assert ome.scale == plain.scale == pytest.approx(2.0 / 0.499)
        first, second = ome.region(0, 0, 740, 554), plain.region(0, 0, 740, 554)
    assert np.abs(first.astype(int) - second).mean() < 2
    with open_slide(slides / OME, None) as full:  # compared 8-fold coarser: the file's levels are JPEG as well
        level0 = full.region(0, 0, 2967, 2220)
    assert np.abs(drawn.area_mean(level0, 92, 69) - drawn.area_mean(first, 92, 69)).mean() < 2


@pytest.mark.parametrize(("name", "mpp"), [(CMU, None), (TCGA, 0.25), (PYRAMID, None)])
@pytest.mark.parametrize("target", [0.5, 0.8, 2.0])
def test_tiles_of_a_real_slide_are_crops_of_the_whole(slides, name, mpp, target):
    with open_slide(slides / name, target, mpp) as slide:
        full = slide.region(0, 0, slide.height, slide.width)
        for y, x in ((0, 0), (173, 211), (slide.height // 2, slide.width // 3)):
            part = slide.region(y, x, 96, 128)[: slide.height - y, : slide.width - x]
            assert np.array_equal(part, full[y : y + 96, x : x + 128])


@pytest.mark.parametrize("name", [CMU, TCGA, OME, PYRAMID])
def test_stained_slides_are_brightfield(slides, name):
    """Medians of the brightest channel: 243, 219, 244, 244."""
    with open_slide(slides / name, None) as slide:
        thumbnail = slide.thumbnail()
    assert max(thumbnail.shape) == 1024
    require_brightfield(thumbnail, name)
    assert np.median(thumbnail.max(axis=2)) > 200


def test_the_fluorescence_slide_is_refused(slides):
    """Its median is 17, whichever level the thumbnail is made of."""
    with open_slide(slides / TRITC, None) as slide:
        for side in (128, 512, 1024):
            with pytest.raises(DataError, match=r"test3-TRITC.*looks like fluorescence"):
                require_brightfield(slide.thumbnail(side), TRITC)


def test_every_stained_tile_is_brightfield(shared_data):
    """Tiles without any glass are the hard case: the lowest median of the 658 is 111."""
    files = sorted((shared_data / "ebhi_seg" / "images").rglob("*.png"))
    assert len(files) == 658
    medians = []
    for file in files:
        pixels = np.asarray(Image.open(file).convert("RGB"))
        require_brightfield(pixels, file.name)
        medians.append(np.median(pixels.max(axis=2)))
    assert min(medians) > 100


def test_drawn_slides_are_brightfield():
    config = SyntheticConfig(size_px=512)
    for patient in cohort(config)[:3]:
        require_brightfield(render_slide(config, patient).image, patient.slide_id)
