"""Areas of classes, and the folder that they are written into."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmark.prediction.rasters import CLASSES, Raster
from tissuebench.common.folders import made_aside, require_free
from tissuebench.errors import ConfigError
from tissuebench.prediction.areas import class_areas, count_pixels, write_areas
from tissuebench.prediction.tissue import Ground

PIXELS = np.array([2000, 0, 6000])


def test_pixels_are_counted_on_tissue_and_off_it():
    """10,000 px: 2,000 of class 0, 6,000 of class 2, the others not predicted; tissue are blocks of 16 px."""
    values = np.full((100, 100), 255, np.uint8)
    values[:20], values[20:80] = 0, 2
    tissue = np.zeros((7, 7), np.uint8)
    tissue[1:3, :3] = 1  # y from 16 to 48, x to 48
    on_tissue, on_glass = count_pixels(Raster(values), Ground(tissue, (0, 100), (0, 100)), 3)
    assert on_tissue.tolist() == [4 * 48, 0, 28 * 48]
    assert (on_tissue + on_glass).tolist() == PIXELS.tolist()
    on_tissue, on_glass = count_pixels(
        Raster(values), Ground(tissue, (18, 40), (40, 90)), 3
    )  # the part that was scanned
    assert on_tissue.tolist() == [2 * 8, 0, 20 * 8]
    assert (on_tissue + on_glass).tolist() == [2 * 50, 0, 20 * 50]


def test_golden_table(tmp_path):
    write_areas(tmp_path / "areas.csv", class_areas(PIXELS, CLASSES, 0.5))
    assert (tmp_path / "areas.csv").read_text() == (
        "class,pixels,share,area_mm2\nglass,2000,0.25,0.0005\nstroma,0,0,0\ntumour,6000,0.75,0.0015\n"
    )


def test_without_a_resolution_square_millimetres_are_empty(tmp_path):
    write_areas(tmp_path / "areas.csv", class_areas(PIXELS, CLASSES, None))
    assert (tmp_path / "areas.csv").read_text().splitlines()[1] == "glass,2000,0.25,"


def test_nothing_predicted_is_no_share():
    areas = class_areas(np.zeros(3, np.int64), CLASSES, 1.0)
    assert [(area.pixels, area.share, area.area_mm2) for area in areas] == [(0, 0.0, 0.0)] * 3


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    out = tmp_path / "new" / "out"
    with pytest.raises(KeyboardInterrupt), made_aside(out) as work:
        (work / "half").write_text("a")
        raise KeyboardInterrupt
    assert list(out.parent.iterdir()) == []
    with made_aside(out) as work:
        (work / "whole").write_text("a")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["whole"]


def test_replacing_keeps_the_old_one_until_the_new_one_is_complete(tmp_path):
    out = tmp_path / "out"
    with made_aside(out) as work:
        (work / "record").write_text("old")
    with pytest.raises(ConfigError, match="already exists"):
        require_free(out, "record", overwrite=False)
    require_free(out, "record", overwrite=True)
    with pytest.raises(OSError, match="disk"), made_aside(out) as work:
        raise OSError("disk")
    assert (out / "record").read_text() == "old"
    with made_aside(out) as work:
        (work / "record").write_text("new")
        assert (out / "record").read_text() == "old"
    assert (out / "record").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_at_once_do_not_mix(tmp_path):
    out = tmp_path / "out"
    with made_aside(out), pytest.raises(ConfigError, match="another process"), made_aside(out):
        pass
    assert out.is_dir()


def test_what_was_left_behind_is_removed(tmp_path):
    left = tmp_path / ".out.partial"
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "file").write_text("a")
    (left / "link").symlink_to(tmp_path)
    with made_aside(tmp_path / "out") as work:
        assert list(work.iterdir()) == []
    assert tmp_path.is_dir()
